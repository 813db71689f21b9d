"""Where MLflow's server keeps its records, and how the password of that database comes to it."""

from pathlib import Path

import pytest

from services.kit.settings import load_settings
from services.tracking.mlflow_settings import MlflowSettings

ADDRESS = "postgresql+psycopg://sparkstack@postgres:5432/sparkstack"


def database(**given: str) -> str:
    return load_settings(MlflowSettings, Path("/nowhere"), **given).database


def test_without_an_address_it_is_a_file_of_the_state_folder(tmp_path):
    assert database(state=str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def test_a_password_of_its_own_is_put_into_the_address():
    assert database(backend_store_uri=ADDRESS, backend_store_password="a/b@c:d") == (
        "postgresql+psycopg://sparkstack:a%2Fb%40c%3Ad@postgres:5432/sparkstack"
    )


@pytest.mark.parametrize(
    "address", ["sqlite:////var/lib/mlflow@home.db", "postgresql://a:own@b/c", "postgresql://localhost/c"]
)
def test_an_address_with_no_place_for_it_is_left_alone(address):
    assert database(backend_store_uri=address, backend_store_password="secret") == address


def test_the_password_may_be_a_secret(tmp_path):
    (tmp_path / "mlflow_backend_store_password").write_text("s3cret\n")
    settings = load_settings(MlflowSettings, tmp_path, backend_store_uri=ADDRESS)
    assert "sparkstack:s3cret@postgres" in settings.database
