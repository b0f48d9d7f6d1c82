"""How a run stops: signals, what is not finite, and several processes that stop together."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from common import checkpoint
from common.cli import NonFiniteError, run_main
from common.images import CorruptImage
from common.run import Run
from tests.common.runs import PER_EPOCH, ROOT, assert_equal_runs, evaluation, state
from tests.common.toy import EPOCHS, SAMPLES, STEPS, settings, train
from tests.equality import same
from tests.launch import TORCHRUN

# --- signals ---


def signal_at(step: int, number: int) -> Callable[[Run], None]:
    def send(run: Run) -> None:
        if run.progress.step + 1 == step:
            os.kill(os.getpid(), number)

    return send


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]


@pytest.mark.parametrize("number, status", SIGNALS)
@pytest.mark.parametrize("step", [1, PER_EPOCH, PER_EPOCH + 2, STEPS])
def test_a_signal_finishes_the_step_saves_and_exits(whole, tmp_path, number, status, step, capsys):
    folder, before = tmp_path / "run", signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: train(settings(folder), after_step=signal_at(step, number)))
    assert caught.value.code == status
    assert state(folder)["progress"]["step"] == step
    assert f"saved {folder}/checkpoints/last.pt; go on with --resume" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    train(settings(folder, resume=""))
    assert_equal_runs(whole, folder)


def test_a_signal_during_evaluation_is_polled_and_at_the_end_of_an_epoch(tmp_path):
    run = evaluation(tmp_path / "a")
    run.restore(model=torch.nn.Linear(1, 1))
    run.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run.poll()
    assert caught.value.code == 143 and run.last.is_file()
    run = evaluation(tmp_path / "b")
    run.restore(model=torch.nn.Linear(1, 1))
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        run.end_epoch(score=0.5)
    assert caught.value.code == 130 and state(tmp_path / "b")["progress"]["epoch"] == 1


def test_an_evaluation_without_state_exits_without_a_checkpoint(tmp_path):
    run = evaluation(tmp_path / "run")
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit):
        run.poll()
    assert not run.last.exists()


@pytest.mark.parametrize("number, status", SIGNALS)
def test_a_signal_that_nobody_polls_ends_the_program_when_all_is_saved(
    whole, tmp_path, number, status, capsys
):
    """While the figures of the final report are drawn, say."""
    folder = tmp_path / "run"

    def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            speed = Run.images_per_second  # `finish` asks for it first
            patch.setattr(
                Run, "images_per_second", lambda run: os.kill(os.getpid(), number) or speed(run)
            )
            train(settings(folder))

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == status
    assert (
        f"stopped by signal {int(number)}; everything was saved before" in capsys.readouterr().out
    )
    assert state(folder)["progress"]["finished"]
    assert_equal_runs(whole, folder)


def test_a_signal_after_the_last_epoch_is_polled_and_logs_nothing_twice(whole, tmp_path):
    """A final evaluation that polls: what it logged is not saved; the resumed run logs it again."""
    folder = tmp_path / "run"
    run = train(settings(folder, max_steps=STEPS))
    run = train(
        settings(folder, resume=""), before_finish=lambda run: run.log("final", accuracy=0.5)
    )
    lines = run.lines
    folder = tmp_path / "stopped"

    def report(run: Run) -> None:
        run.log("final", accuracy=0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        run.poll()

    for _ in range(2):  # the second time it is resumed right into the report
        with pytest.raises(SystemExit):
            train(settings(folder, resume=""), before_finish=report)
    assert (
        train(
            settings(folder, resume=""), before_finish=lambda run: run.log("final", accuracy=0.5)
        ).lines
        == lines
    )


@pytest.mark.slow
def test_a_signal_to_the_process_group_is_not_for_loader_workers(whole, tmp_path):
    code = "import sys; from pathlib import Path; from common.cli import run_main\n"
    code += "from tests.common.toy import *; import torch; torch.set_num_threads(1)\n"
    code += "slow = lambda run: print('step', flush=True) or time.sleep(0.3)\n"
    code += "run_main(lambda: train(settings(Path(sys.argv[1]), workers=2), after_step=slow) and 0)"
    command = [sys.executable, "-c", f"import time; {code}", str(tmp_path / "run")]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert run.stdout.readline() == b"step\n"
    os.killpg(run.pid, signal.SIGTERM)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 143 and b"Traceback" not in err
    train(settings(tmp_path / "run", resume=""))
    assert_equal_runs(whole, tmp_path / "run")


# --- an evaluation that stops ---


def resumed_steps(folder, **changed) -> list[int]:
    """The steps that the resumed run takes."""
    steps = []
    train(
        settings(folder, resume="", **changed),
        after_step=lambda run: steps.append(run.progress.step + 1),
    )
    return steps


def failing(epoch: int) -> Callable[[Run], None]:
    """The evaluation of an epoch finds an image that it cannot read."""

    def evaluate(run: Run) -> None:
        if run.progress.epoch == epoch:
            random.random(), torch.rand(())  # what a failed evaluation drew is forgotten
            raise CorruptImage("val.jpg: unreadable image")

    return evaluate


@pytest.mark.parametrize("epoch", range(EPOCHS))
@pytest.mark.parametrize("every", [None, 1, 3])
def test_a_run_whose_evaluation_failed_repeats_no_step(whole, tmp_path, epoch, every):
    folder = tmp_path / "run"
    with pytest.raises(CorruptImage):
        train(settings(folder, checkpoint_every=every), in_evaluation=failing(epoch))
    with pytest.raises(CorruptImage):  # not mended yet
        train(settings(folder, resume=""), in_evaluation=failing(epoch))
    assert resumed_steps(folder) == list(range(PER_EPOCH * (epoch + 1) + 1, STEPS + 1))
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("limit", [PER_EPOCH, PER_EPOCH + 1, 2 * PER_EPOCH])
def test_it_repeats_no_step_with_max_steps_either(whole, tmp_path, limit):
    folder = tmp_path / "run"
    with contextlib.suppress(CorruptImage):
        train(settings(folder, max_steps=limit), in_evaluation=failing(0))
    done = min(
        limit, PER_EPOCH
    )  # where the first evaluation comes before the limit, it stops the run
    assert state(folder)["progress"]["step"] == (limit if limit == PER_EPOCH else done)
    assert resumed_steps(folder, max_steps=2 * PER_EPOCH) == list(
        range(done + 1, 2 * PER_EPOCH + 1)
    )
    assert resumed_steps(folder) == list(range(2 * PER_EPOCH + 1, STEPS + 1))
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("number, status", SIGNALS)
def test_a_signal_in_an_evaluation_keeps_the_state_from_before_it(
    whole, tmp_path, number, status, capsys
):
    """By then lines are logged and means taken: saved once more, they would be done twice."""
    folder = tmp_path / "run"

    def send(run: Run) -> None:
        os.kill(os.getpid(), number)
        run.poll()

    with pytest.raises(SystemExit) as caught:
        train(settings(folder), in_evaluation=send)
    assert caught.value.code == status
    assert f"saved {folder}/checkpoints/last.pt; go on with --resume" in capsys.readouterr().out
    assert resumed_steps(folder) == list(range(PER_EPOCH + 1, STEPS + 1))
    assert_equal_runs(whole, folder)


def test_an_evaluation_script_has_nothing_to_save(tmp_path):
    run = evaluation(tmp_path / "run")
    run.save_before_evaluation()
    run.close()
    assert not run.last.exists()


# --- what is not finite ---


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_and_leaves_the_good_checkpoint(tmp_path, value, capsys):
    folder, kept = tmp_path / "run", {}

    def spoil(loss: torch.Tensor, run: Run) -> torch.Tensor:
        if run.progress.step + 1 == PER_EPOCH + 2:
            kept["last"], kept["model"] = (
                run.last.read_bytes(),
                checkpoint.collect(run.stateful)["model"],
            )
            kept["model"] = {key: tensor.clone() for key, tensor in kept["model"].items()}
            kept["run"] = run
            return loss * value
        return loss

    with pytest.raises(SystemExit) as caught:
        run_main(lambda: train(settings(folder), spoil=spoil))
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"error: epoch 2, step {PER_EPOCH + 2}: the loss is {value} (samples ")
    assert err.endswith(f"); last good checkpoint: {folder}/checkpoints/last.pt\n")
    assert len(err.split("(samples ")[1].split(")")[0].split(", ")) == 4
    assert (folder / "checkpoints" / "last.pt").read_bytes() == kept["last"]
    after = kept["run"].stateful["model"].state_dict()
    weights = [key for key in after if "running" not in key and "num_batches" not in key]
    assert all(
        torch.equal(after[key], kept["model"][key]) for key in weights
    )  # never updated by such a loss


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    folder, kept = tmp_path / "run", {}

    def spoil_weights(run: Run) -> None:
        if run.progress.step + 1 == 2 * PER_EPOCH:
            kept.update({p: p.read_bytes() for p in (run.last, run.best)})
            with torch.no_grad():
                next(run.stateful["model"].parameters()).fill_(float("nan"))

    with pytest.raises(
        NonFiniteError, match=f"step {2 * PER_EPOCH}: model 0.weight is not finite; last good"
    ) as caught:
        train(settings(folder), after_step=spoil_weights)
    assert str(folder / "checkpoints" / "last.pt") in str(caught.value)
    assert kept == {p: p.read_bytes() for p in kept} and len(kept) == 2


# --- several processes ---


@pytest.mark.slow
def test_two_processes_gather_average_save_and_resume_as_one(tmp_path):
    command = [*TORCHRUN, "-m", "tests.common.two_processes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["gather"] == found["gather_wanted"]
    assert found["mean"] == 5 / 3 and found["mean_after_save"] == 5 / 3 and found["none"] is None
    assert found["exits"] == [143, 143] and found["uneven_polls"]
    assert found["refused"] == ["UserError", "UserError"]
    assert_equal_runs(tmp_path / "whole", tmp_path / "interrupted")
    assert found["steps_after_mending"] == [2, 2]  # of 6, for 4 came before that evaluation
    assert_equal_runs(tmp_path / "whole", tmp_path / "mended")
    randoms = state(tmp_path / "whole")["random"]
    assert len(randoms) == 2 and not same(randoms[0]["torch"], randoms[1]["torch"])
    assert state(tmp_path / "whole")["progress"]["images"] == SAMPLES * EPOCHS
