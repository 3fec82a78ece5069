"""What may be a token."""

import pytest

from multiserverrl.errors import ConfigError
from multiserverrl.wire.tokens import checked_token


@pytest.mark.parametrize("token", ["x", "a-Token_of.64~characters", "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}"])
def test_visible_ascii_is_a_token(token: str) -> None:
    assert checked_token(token, "--token-file f") == token


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("secret\nX-Header: 1", "character 7 of it is a line break"),
        ("secret\r", "character 7 of it is a line break"),
        ("sec ret", "character 4 of it is a blank"),
        ("sécret", "character 2 of it is not a visible ASCII one"),
        ("secret\x00", "character 7"),
        ("\x7fsecret", "character 1"),
    ],
)
def test_what_no_header_can_bear_is_refused_without_showing_it(token: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_token(token, "--token-file f")
    assert said in str(refused.value) and "--token-file f" in str(refused.value)
    assert "cret" not in str(refused.value).replace("secrets.token_urlsafe", "").replace("import secrets", "")
