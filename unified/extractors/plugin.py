"""Registers the embedded extractors."""

from unified.zoo.registry import ZooModel, register_model

register_model(
    ZooModel(
        name="avatars/attributes",
        summary="classifier of every attribute of an avatar",
        folder="attributes",
        build="unified.extractors.attributes:build",
    )
)
register_model(
    ZooModel(
        name="avatars/identity",
        summary="embedding of who is shown, whatever the expression, clothes, glasses and background",
        folder="identity",
        build="unified.extractors.identity:build",
    )
)
register_model(
    ZooModel(
        name="lpips-alex",
        summary="AlexNet trunk and heads of LPIPS v0.1",
        folder="lpips-alex",
        build="unified.metrics.convert_alexnet:build",
    )
)
