"""Opening of bundles with a single graph."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor

from samedge.api.load import ModelPredictor, Place, decide_place, open_main
from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole
from samedge.engines.protocol import Engine
from samedge.errors import SamedgeError
from samedge.runtime.one_graph import OneGraphPredictor


class OneGraphOpener:
    """The `samedge.api.load.FamilyOpener` of families with one graph; subclasses may override `predictor`."""

    def predictor(self, opened: Bundle, engine: Engine) -> ModelPredictor:
        """Return a predictor for an opened graph or engine."""
        return OneGraphPredictor(opened.manifest, engine)

    def open_graphs(self, opened: Bundle, place: Place, aside: Executor) -> ModelPredictor:
        """See `FamilyOpener`."""
        side = opened.manifest.input.image_size
        engine = open_main(opened, place, decide_place(opened, place, (side, side)))
        try:
            return self.predictor(opened, engine)
        except SamedgeError:
            engine.close()
            raise

    def from_engines(self, opened: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine]) -> ModelPredictor:
        """See `FamilyOpener`."""
        return self.predictor(opened, engines[opened.manifest.model_family.main])
