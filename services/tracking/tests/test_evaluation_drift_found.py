"""What a promotion asks the tracking service: whether traffic has drifted."""

import structlog

from services.tracking.app import create_app
from services.tracking.evaluation.gate import DriftFound
from services.tracking.evaluation.promotion import drift_found
from services.tracking.evaluation.session import Place
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from tests.testkit.server import free_port, in_thread, running


def test_the_tracking_service_itself_is_understood(tmp_path):
    app = create_app(TrackingSettings(state=tmp_path), Parts(counters=list))
    with structlog.testing.capture_logs(), in_thread(running(app)) as url:
        assert drift_found(Place(url, "")) == DriftFound()
    assert drift_found(Place(f"http://127.0.0.1:{free_port()}", "")).trouble.startswith("the tracking service can't be")
