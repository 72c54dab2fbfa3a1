"""The app with tiny random models, as a process of its own: `python -m tests.unified.app.tiny_server FOLDER`."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.tiny.families import FAMILIES
from tests.unified.comparison.fakes import fake_scorers
from unified.app.models import Models, Offer
from unified.app.server import Settings, serve, workshop
from unified.app.works import Workshop
from unified.contract.backbone import Backbone

TINY = {"tiny/stylegan": "stylegan", "tiny/stable-diffusion": "stable-diffusion"}


def tiny_models() -> Models:
    """A GAN and a diffusion model, small enough to invert in a second."""

    def load(name: str) -> Backbone:
        backbone = FAMILIES[TINY[name]]()
        backbone.id = name
        return backbone

    return Models([Offer(name, type(load(name)), "person") for name in TINY], load=load)


def tiny_shop(settings: Settings) -> Workshop:
    return workshop(settings, tiny_models(), make_scorers=fake_scorers)


def main() -> None:
    settings = Settings(Path(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    shop = tiny_shop(settings)
    if "slow" in sys.argv:  # so that there is time to reload, stop and kill
        _slow_down()
    serve(settings, shop, ready=lambda address: print(address, flush=True))


def _slow_down() -> None:
    generate = Backbone.generate

    def slowly(self: Backbone, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name == "jobs":
            time.sleep(0.4)
        return generate(self, *arguments, **options)

    setattr(Backbone, "generate", slowly)  # noqa: B010


if __name__ == "__main__":
    main()
