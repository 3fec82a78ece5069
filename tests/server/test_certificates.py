"""A server's certificate, before anything is started."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from multiserverrl.errors import ConfigError
from multiserverrl.server.certificates import certificate_fingerprint
from multiserverrl.server.config import ServerConfig
from multiserverrl.testing.serving import serving
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def fingerprint(certfile: str | None, keyfile: str | None = None) -> str | None:
    return certificate_fingerprint(ServerConfig(env_ids=("CartPole-v1",), certfile=certfile, keyfile=keyfile))


def test_a_server_is_known_by_the_first_certificate_of_its_file(authority: Authority, tmp_path: Path) -> None:
    signed, both = authority.sign(), tmp_path / "both.pem"
    parts = [signed.keyfile, signed.certfile, authority.ca_file]
    both.write_text("".join(Path(part).read_text() for part in parts))
    both.chmod(0o600)
    assert fingerprint(*signed) == fingerprint(str(both)) == signed.fingerprint
    assert fingerprint(None) is None


def test_files_that_are_no_certificate_with_its_key_are_refused(authority: Authority, tmp_path: Path) -> None:
    signed, other = authority.sign(), authority.sign()
    rubbish, locked = tmp_path / "rubbish", tmp_path / "locked"
    rubbish.write_text("rubbish")
    key = load_pem_private_key(Path(signed.keyfile).read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    locked.write_bytes(encrypted)
    for files, said in (
        ((signed.certfile, other.keyfile), "the key is not that certificate's"),
        ((str(rubbish), signed.keyfile), "no PEM certificate and key"),
        ((signed.certfile, str(rubbish)), "no PEM certificate and key"),
        ((signed.certfile, None), "no PEM certificate and key"),
        ((signed.certfile, str(tmp_path / "missing")), "missing .* cannot be read: No such file"),
        ((str(tmp_path / "missing"), signed.keyfile), "missing .* cannot be read: No such file"),
        ((signed.certfile, str(locked)), "is encrypted, and nobody is here to type its password"),
    ):
        with pytest.raises(ConfigError, match=said):
            fingerprint(*files)


def test_a_key_that_others_can_write_is_refused_and_one_they_can_read_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    signed = authority.sign()
    Path(signed.keyfile).chmod(0o644)
    fingerprint(*signed)
    assert "secret_readable_by_others flag=--keyfile" in caplog.text
    Path(signed.keyfile).chmod(0o666)
    with pytest.raises(ConfigError, match=r"--keyfile .* can be written by other users"):
        fingerprint(*signed)


def test_a_key_without_a_certificate_is_refused() -> None:
    with pytest.raises(ConfigError, match="--keyfile is the key of a certificate"):
        ServerConfig(env_ids=("CartPole-v1",), keyfile="key.pem")


def test_a_bind_beyond_loopback_without_tls_is_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTISERVERRL_TOKEN", "a-token-of-this-test")
    with serving("CartPole-v1", host="0.0.0.0", count=1, workers=1):
        assert "not_encrypted host=0.0.0.0" in caplog.text
    caplog.clear()
    with serving("CartPole-v1", host="0.0.0.0", count=1, workers=1, **authority.sign().settings()):
        assert "not_encrypted" not in caplog.text
