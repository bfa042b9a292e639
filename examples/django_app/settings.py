"""Settings of the example project, from the environment: DATABASE_* for PostgreSQL, GATEWAY_URL and its secret."""

from __future__ import annotations

import os
from pathlib import Path

SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "examples.django_app.urls"
INSTALLED_APPS: list[str] = []
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["DATABASE_NAME"],
        "USER": os.environ["DATABASE_USER"],
        "HOST": os.environ["DATABASE_HOST"],
    }
}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / "templates"],
    }
]

PLANWIRE_URL = os.environ["GATEWAY_URL"]
PLANWIRE_PUBLISH_KEY = os.environ["PLANWIRE_PUBLISH_KEY"]
PLANWIRE_JWT_SECRET = os.environ["PLANWIRE_JWT_SECRET"]
