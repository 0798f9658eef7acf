"""What the commands say of long work, on standard error."""

from __future__ import annotations

import sys

import pytest
from support.engine import until

from abt_db.tools.meter import Meter


class TestMeter:
    """On a terminal there is one line, written over and gone in the end; elsewhere a line for each
    change; and nothing of what takes less than a second."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("abt_db.tools.meter.INTERVAL", 0.001)
        monkeypatch.setattr("abt_db.tools.meter.monotonic", lambda: 0.0)  # whatever it takes

    async def said(self, capfd: pytest.CaptureFixture[str]) -> str:
        meter, said = Meter(), ""

        def shows(text: str) -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return text in said

        async with meter:
            tell = meter.telling("vacuum")
            await until(lambda: shows("vacuum, 0 s"))
            tell(1, 4)
            await until(lambda: shows("vacuum: 25 %, 0 s"))
        return said + capfd.readouterr().err

    async def test_on_a_terminal(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        _, *lines = (await self.said(capfd)).split("\r\x1b[K")
        assert lines[0] == "vacuum, 0 s" and lines[-2:] == ["vacuum: 25 %, 0 s", ""]

    async def test_elsewhere(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert await self.said(capfd) == "vacuum, 0 s\nvacuum: 25 %, 0 s\n"

    async def test_short_work(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("abt_db.tools.meter.INTERVAL", 1.0)
        meter = Meter()
        async with meter:
            meter.telling("vacuum")(4, 4)
        assert capfd.readouterr().err == ""
