"""The configuration files: what they allow, and what they say about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost import config
from clusterhost.config import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clusterhost.toml"


def test_an_empty_file_means_the_defaults(file: Path) -> None:
    file.write_text("")
    settings = config.load(file)
    assert settings.listen.max_client_requests == 5
    assert settings.cluster.admin_socket == Path("/var/lib/clusterhost/admin.sock")
    assert settings.control.key_file == Path("/var/lib/clusterhost/control.key")
    assert settings.store.url == "sqlite:////var/lib/clusterhost/clusterhost.db"
    assert settings.cluster.hostname


def test_what_is_not_given_lies_in_the_state_directory(file: Path) -> None:
    file.write_text('[cluster]\nstate_dir = "/srv/c"\nhostname = "one"\n')
    settings = config.load(file)
    assert settings.cluster.hostname == "one"
    assert settings.cluster.admin_socket == Path("/srv/c/admin.sock")
    assert settings.store.url == "sqlite:////srv/c/clusterhost.db"


def test_settings_do_not_change(file: Path) -> None:
    file.write_text("")
    with pytest.raises(ValueError, match="frozen"):
        config.load(file).listen.tcp_port = 1


WRONG = {
    '[placement]\npolcy = "x"': "unknown key 'polcy' in [placement]; allowed: policy, cpu_overcommit",
    "[places]\n": "unknown key 'places'; allowed: cluster, listen, graphics, control, store",
    "[listen]\ntcp_port = 99999": "tcp_port in [listen]: found 99999, but input should be less than or equal",
    '[listen]\nunix_sock_rw_perms = "0999"': "unix_sock_rw_perms in [listen]: found '0999'",
    '[store]\nurl = "mysql://x"': "url in [store]: found 'mysql://x'",
    '[control]\ncontrol = "10.0.0.1"': "control in [control]: found '10.0.0.1'",
    '[placement]\npolicy = "random"': "policy in [placement]: found 'random', but input should be 'striping'",
    '[log]\nlog_filters = "9:qemu"': "'9:qemu' is not LEVEL:NAME with LEVEL 1 to 4",
    '[log]\nlog_outputs = "3:syslog:x"': "'3:syslog:x' is not LEVEL:stderr",
    "[[[": "is not TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_in_one_sentence(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert WRONG[text] in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"clusterhost\.toml cannot be read: No such file"):
        config.load(file)


def test_an_agent_needs_its_name_alone(file: Path) -> None:
    file.write_text('[agent]\nnode = "n1"\nstate_dir = "/srv/a"\n')
    settings = config.load_agent(file)
    assert (settings.node, settings.uri) == ("n1", "qemu:///system")
    assert settings.key_file == Path("/srv/a/agent.key")
    assert settings.has_files


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the table [agent] is missing"),
        ("[agent]\n", "the key 'node' is missing"),
        ('[agent]\nnode = "n/1"\n', "node: found 'n/1'"),
        ('[agent]\nnode = "n1"\nserver_key = "short"\n', "server_key: found 'short'"),
        ('[agent]\nnode = "n1"\nname = "x"\n', "unknown key 'name'; allowed: node, uri, control"),
        ('[agent]\nnode = "n1"\nimages_port = 65536\n', "images_port: found 65536"),
        ('[agent]\nnode = "n1"\nimages_sending_mib = -1\n', "images_sending_mib: found -1"),
        ('[agent]\nnode = "n1"\n[listen]\n', "unknown key 'listen'; allowed: [agent], [log]"),
    ],
)
def test_a_wrong_agent_file_is_refused(text: str, sentence: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load_agent(file)
    assert sentence in str(caught.value)


def test_a_dump_is_read_back_as_the_same_settings(file: Path) -> None:
    file.write_text('[cluster]\nhostname = "a\\"b\\\\c"\n[placement]\ncpu_overcommit = 2.5\n')
    settings = config.load(file)
    file.write_text(config.dump(settings))
    assert config.load(file) == settings


def test_an_agent_dump_is_read_back_as_the_same_settings(file: Path) -> None:
    file.write_text(
        '[agent]\nnode = "n1"\nhas_files = false\nimages_receiving_mib = 0.5\n[log]\nlog_level = 1\n'
    )
    settings = config.load_agent(file)
    file.write_text(config.dump(settings))
    assert config.load_agent(file) == settings


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=30))
def test_any_hostname_survives_a_dump(hostname: str) -> None:
    settings = config.Settings.model_validate({"cluster": {"hostname": hostname}})
    import tomllib

    assert tomllib.loads(config.dump(settings))["cluster"]["hostname"] == settings.cluster.hostname
