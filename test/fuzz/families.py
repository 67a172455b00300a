"""All families of fuzzed inputs, by name."""

from functools import cache

from family import Family
from strategies_bags import bag_families
from strategies_documents import document_families
from strategies_images import image_families
from strategies_models import model_families
from strategies_options import option_families


@cache
def all_families() -> dict[str, Family]:
    """Return them: decoders of images, readers of bags, text and models, and options."""
    return {
        **image_families(),
        **bag_families(),
        **document_families(),
        **model_families(),
        **option_families(),
    }
