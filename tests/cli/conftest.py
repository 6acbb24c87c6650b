from tests.predictor.conftest import pretrained_run, scene_run, video_run  # noqa: F401 - fixtures
