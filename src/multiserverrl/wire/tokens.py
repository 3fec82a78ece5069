"""The token that a server may want of its clients: where both sides look for it, and what it may be."""

from __future__ import annotations

from multiserverrl.errors import ConfigError

__all__ = ["TOKEN_VARIABLE", "checked_token"]

TOKEN_VARIABLE = "MULTISERVERRL_TOKEN"


def checked_token(text: str, named_by: str) -> str:
    """The token, where a header can bear it as it is; ConfigError says which of its characters cannot, not the token.

    `named_by`: the flag, argument or variable that it came from.
    """
    for place, letter in enumerate(text):
        if not "!" <= letter <= "~":
            what = "a line break" if letter in "\r\n" else "a blank" if letter.isspace() else "not a visible ASCII one"
            raise ConfigError(
                f"{named_by} holds no token: character {place + 1} of it is {what}; "
                "a token has visible ASCII characters alone, such as python -c 'import secrets; "
                "print(secrets.token_urlsafe(24))' prints"
            )
    return text
