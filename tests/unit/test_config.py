"""Settings and the rules they keep."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jacloom_server import __main__ as command
from jacloom_server import config
from jacloom_server.config import Config, ConfigError

GUARDED = {"tls_cert": "cert.pem", "tls_key": "key.pem", "token_file": "tokens"}


def test_a_mapping_becomes_a_config() -> None:
    made = config.from_mapping({"address": "localhost:0", "workers": 3, "drain": 5, "data": "there", "graph_limits": {"nodes": 7}})
    assert (made.workers, made.drain, made.data, made.graph_limits.nodes) == (3, 5.0, Path("there"), 7)
    assert made.graph_limits.depth == Config().graph_limits.depth


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"worker": 3}, "unknown setting worker; did you mean workers?"),
        ({"graph_limits": {"nods": 3}}, "unknown setting graph_limits.nods; did you mean graph_limits.nodes?"),
        ({"workers": "3"}, "workers must be int or nothing, got '3'"),
        ({"workers": True}, "workers must be int or nothing, got True"),
        ({"insecure": 1}, "insecure must be bool, got 1"),
        ({"workers": -1}, "workers must be at least 0, got -1."),
        ({"gpus": -1}, "gpus must be at least 0, got -1."),
        ({"memory": -5}, "memory must be at least 1, got -5."),
        ({"memory": 0}, "memory must be at least 1, got 0."),
        ({"object_store": 0}, "object_store must be at least 78,643,200, got 0."),
        ({"calls": 0}, "calls must be at least 1, got 0."),
        ({"message_bytes": 1024}, "message_bytes must be at least 2,097,152 and at most 2,147,483,647, got 1,024."),
        ({"message_bytes": 1 << 31}, "message_bytes must be at least 2,097,152 and at most 2,147,483,647, got 2,147,483,648."),
        ({"functions": 0}, "functions must be at least 1, got 0."),
        (
            {"function_bytes": 1 << 20},
            "function_bytes must be at least graph_limits.graph_bytes, 4,194,304, so that any graph finds room, got 1,048,576.",
        ),
        ({"blob_bytes": -1}, "blob_bytes must be at least 1, got -1."),
        ({"blob_lease": 0}, "blob_lease must be at least 0.1"),
        ({"blob_lease": math.nan}, "blob_lease must be at least 0.1 and at most 31,536,000.0, got nan."),
        ({"tile_lease": math.inf}, "tile_lease must be at least 0.1 and at most 31,536,000.0, got inf."),
        ({"attempts": 0}, "attempts must be at least 1, got 0."),
        ({"patience": -1}, "patience must be at least 0"),
        ({"drain": math.inf}, "drain must be at least 0 and at most 31,536,000.0, got inf."),
        ({"graph_limits": {"nodes": -1}}, "graph_limits.nodes must be at least 0, got -1."),
        ({"graph_limits": {"graph_bytes": -4}}, "graph_limits.graph_bytes must be at least 0, got -4."),
        ({"workers": 0, "wide": False, "gpus": 0}, "leave nobody to compute"),
        ({"address": "localhost"}, "host:port"),
        ({"address": "localhost:99999"}, "host:port"),
        ({"tls_cert": "cert.pem"}, "give --tls-cert and --tls-key together"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_mapping(settings)
    assert text in str(caught.value)


def test_the_least_of_everything_is_accepted() -> None:
    least = {"workers": 0, "gpus": 0, "memory": 1, "object_store": 75 << 20, "calls": 1, "functions": 1, "blob_bytes": 1, "patience": 0, "drain": 0}
    made = config.from_mapping({**least, "function_bytes": 1, "graph_limits": {"graph_bytes": 1, "rules": 0}})
    assert {name: getattr(made, name) for name in least} == least


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.1.2.3:1", "server.example:1"])
def test_an_address_beyond_this_machine_needs_tls_and_tokens(address: str) -> None:
    for missing in GUARDED.keys() | {"all"}:
        given = {} if missing == "all" else {name: value for name, value in GUARDED.items() if name != missing}
        if not missing.startswith("tls"):
            with pytest.raises(ConfigError, match="--insecure"):
                config.from_mapping({"address": address, **given})
    assert config.from_mapping({"address": address, **GUARDED}).address == address
    assert config.from_mapping({"address": address, "insecure": True}).insecure


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50051", "[::1]:8", "127.1.2.3:1"])
def test_loopback_needs_nothing(address: str) -> None:
    assert config.from_mapping({"address": address}).address == address


def test_the_command_line_refuses_with_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["--address", "0.0.0.0:0", "--no-supervise"]) == 2
    assert "--insecure" in capsys.readouterr().err
    file = tmp_path / "settings.toml"
    file.write_text("wokers = 2")
    assert command.main(["--config", str(file)]) == 2
    assert "did you mean workers?" in capsys.readouterr().err
    assert command.main(["--config", str(tmp_path / "none.toml")]) == 2
    file.write_text("workers = ")
    assert command.main(["--config", str(file)]) == 2
    file.write_bytes(b"workers = 2\n# zw\xf6lf\n")
    assert command.main(["--config", str(file)]) == 2
    assert "settings.toml must be text in UTF-8, got the byte 0xf6 in line 2: save it as UTF-8." in capsys.readouterr().err
    assert command.main(["--tile-lease", "nan", "--no-supervise"]) == 2
    assert "tile_lease must be at least 0.1 and at most 31,536,000.0, got nan." in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["--memory", "lots"])
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert "--token-file FILE" in capsys.readouterr().out
