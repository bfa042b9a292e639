"""The example project's routes."""

from __future__ import annotations

from django.urls import path

from examples.django_app import views

urlpatterns = [
    path("", views.page),
    path("export", views.export),
    path("report", views.report),
    path("upgrade", views.upgrade),
    path("planwire-token", views.browser_token),
]
