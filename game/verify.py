"""Whether a session, made again from its header and tape, comes out as it was recorded."""

from collections.abc import Iterator
from dataclasses import dataclass

from game.recorder import surroundings
from game.reel import Film, Rerun, counted
from world_model.psnr import psnr_db
from world_model.session import Session, SessionError, frame_digest


class DiffersError(SessionError):
    """A frame made again is not the recorded one; the message says which is the first."""


@dataclass(frozen=True)
class Comparison:
    """One frame made again: whether it is the recorded one bit for bit, and its PSNR against the recorded video, which is not there for every frame.

    The video itself is compressed: a frame that is the same bit for bit has some 40 dB.
    """

    number: int
    same: bool
    psnr_db: float | None


def compare(session: Session, rerun: Rerun) -> Iterator[Comparison]:
    """Make every frame again that has a digest, and compare."""
    try:
        film: Film | None = Film(session)
    except SessionError:  # the digests alone tell whether it is bit-exact
        film = None
    digests = session.digests()[: len(rerun)]
    for number in counted(len(digests)):
        frame = rerun.frame(number)
        yield Comparison(number, frame_digest(frame) == digests[number - 1], psnr_db(frame, film.frame(number)) if film and number <= len(film) else None)


def verify(session: Session, rerun: Rerun) -> str:
    """Return in one sentence that every frame came out as recorded; print the PSNR of every frame from the first that did not.

    Raises:
        DiffersError: a frame came out otherwise.
        SessionError: all did not, but the tape or the digests are cut.
    """
    total, digests = len(rerun), len(session.digests())
    first: Comparison | None = None
    worst = float("inf")
    for result in compare(session, rerun):
        first = first or (None if result.same else result)
        if first:
            told = "no picture to compare with" if result.psnr_db is None else f"{result.psnr_db:.2f} dB"
            print(f"frame {result.number}: {told}{', bit-exact' if result.same else ''}")
            worst = min(worst, worst if result.psnr_db is None else result.psnr_db)
    if first:
        others = [part for part, here in surroundings(rerun.world).items() if session.header.get(part, here) != here]
        why = f" (it was recorded with other {' and '.join(others)})" if others else ""
        if rerun.world.sha256 != session.facts.world_sha256:
            why = " (this is not the world it was recorded in)"
        psnr = "" if worst == float("inf") else f", PSNR against the recorded video at worst {worst:.1f} dB"
        raise DiffersError(f"The session {session.directory} is not bit-exact here{why}: frame {first.number} of {total} is the first that differs{psnr}.")
    if abs(total - digests) > 1:  # a process that was killed may leave a digest without its line
        raise SessionError(f"The session {session.directory} has {total} frames on its tape but {digests} digests; what both have is bit-exact.")
    return f"The session {session.directory} is bit-exact: all {min(total, digests)} frames have the digests they were recorded with."
