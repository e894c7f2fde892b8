"""Whether a session, made again from its header and tape, comes out as it was recorded."""

from collections.abc import Iterator
from dataclasses import dataclass

from game.recorder import surroundings
from game.reel import Film, Rerun
from world_model.psnr import psnr_db
from world_model.session import Session, SessionError, frame_digest


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
    for number, digest in enumerate(session.digests()[: len(rerun)], 1):
        frame = rerun.frame(number)
        yield Comparison(number, frame_digest(frame) == digest, psnr_db(frame, film.frame(number)) if film and number <= len(film) else None)


def verify(session: Session, rerun: Rerun) -> str:
    """Return in one sentence that every frame came out as recorded; print the PSNR of every frame from the first that did not.

    Raises:
        SessionError: the tape is cut, or a frame came out otherwise; the message says which of the two, and from where on.
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
        raise SessionError(f"The session {session.directory} is not bit-exact here{why}: frame {first.number} of {total} is the first that differs{psnr}.")
    if abs(total - digests) > 1:  # a process that was killed may leave a digest without its line
        raise SessionError(f"The session {session.directory} has {total} frames on its tape but {digests} digests; what both have is bit-exact.")
    return f"The session {session.directory} is bit-exact: all {min(total, digests)} frames have the digests they were recorded with."
