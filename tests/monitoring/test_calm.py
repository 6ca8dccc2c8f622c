"""No alert fires while all is well. It is run alone: what others do to the machine is not calm."""

import time
from pathlib import Path

import pytest

from tests.monitoring.prometheus import running_prometheus
from tests.monitoring.stage import crowd
from tests.support.polling import eventually
from tests.support.server import running_service

pytestmark = [pytest.mark.monitoring, pytest.mark.timeout(240)]


def test_load_that_the_service_can_bear_fires_nothing(tmp_path: Path, postgres_url: str) -> None:
    # Its deadlines are the usual ones: a machine that stalls for a second is no fault of ours.
    settings = {"ENVIRONMENT": "test", "DATABASE_URL": postgres_url, "DATABASE_POOL_SIZE": "5"}
    with running_service(tmp_path, settings) as service, running_prometheus(tmp_path) as prometheus:
        prometheus.scrape([service.port])
        eventually(lambda: prometheus.value('up{job="tidegate"}') == 1, within=30, every=0.1)
        eventually(lambda: not prometheus.firing(), within=30, every=0.1)
        with crowd(service, "/products", clients=2):
            end = time.monotonic() + 12
            while time.monotonic() < end:
                assert not prometheus.firing()
                time.sleep(0.2)
        assert (prometheus.value("job:availability_errors:ratio_rate5m") or 0) == 0
        assert prometheus.value("sum(job_status:http_requests:rate5m)")
