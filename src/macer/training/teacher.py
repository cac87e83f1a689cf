"""A teacher's votes as a training takes them: checked against what is trained."""

from pathlib import Path

from macer.data import LabelledImages
from macer.runs.settings import require
from macer.runs.teacher import TeacherVotes, read_teacher_votes
from macer.training.settings import TrainingSettings


def teacher_for(
    settings: TrainingSettings, images: LabelledImages, images_digest: str
) -> tuple[TeacherVotes | None, list[str]]:
    """Return the votes that the settings name, if any, and warnings about what is unusual.

    Args:
        settings: of the training.
        images: what is trained on.
        images_digest: of these, see `macer.data.images.digest_of_some`.

    Raises:
        RecordsError: the file cannot be read as votes.
        SettingsError: they are votes on other images or classes, or not finished.
    """
    if settings.teacher is None:
        if not settings.objective.takes_teacher:
            return None, []
        without = (
            f"{settings.objective.name} trains without a teacher: the mean of the noisy copies stands for its votes"
        )
        return None, [f"{without} (macer teacher writes those of a teacher, with which it was published)"]
    file, sigma = settings.teacher, settings.objective.sigma
    votes = read_teacher_votes(Path(file))
    here, there = (images.name, images.split), (votes.dataset, votes.split)
    require(there == here, f"{file}: votes on {' '.join(there)} images, but the training is on {' '.join(here)} images")
    count, classes = votes.counts.shape
    require(count == len(images), f"{file}: votes on {count:,} images, but there are {len(images):,}")
    require(classes == images.num_classes, f"{file}: votes for {classes} classes, but there are {images.num_classes}")
    require(votes.images == images_digest, f"{file}: votes on other images, though as many of them")
    counted = int(votes.counted.sum())
    require(
        counted == count,
        f"{file}: votes on {counted:,} of {count:,} images: give the same `macer teacher` command again to finish it",
    )
    if votes.sigma <= sigma:
        return votes, []
    unusual = f"its votes are of noise with sigma {votes.sigma:g}, more than the {sigma:g} that is trained with"
    return votes, [f"{file}: {unusual}; CAT-RS was published with a teacher of 0.25 for every sigma"]
