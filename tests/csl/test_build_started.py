"""The weights that training starts from where no flag names any."""

from csl.build import build_started
from csl.options import build_parser


def test_the_default_file_is_tresnet_ms_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "tresnet_m.pth").write_bytes(b"of another network, not opened")
    monkeypatch.chdir(tmp_path)
    args = build_parser().parse_args(["--model_name", "tresnet_tiny"])
    build_started(args, classes=3, given=frozenset({"model_name"}))
    captured = capsys.readouterr()
    told = captured.out + captured.err
    assert "random initialisation" in told
    assert "tresnet_m.pth" not in told
