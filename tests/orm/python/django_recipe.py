"""Django on psycopg 3: a decorator makes a view's work one transaction for the account, a middleware answers for denials.

A whole application in one file: where the comments say so, the parts belong into settings.py, views.py and so on. Where the
server is comes from libpq's environment (PGHOST, PGDATABASE …).
"""

import functools
import json
import math
import os
from datetime import datetime, timezone

import django
from django.conf import settings

from checks import check, finish

# recipe: settings
# settings.py
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        # A cursor on the server outlives its transaction, which a pooler in transaction mode cannot do.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "CONN_MAX_AGE": 600,
    }
}
MIDDLEWARE = [f"{__name__}.DenialMiddleware"]
# end

settings.configure(DATABASES=DATABASES, MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], USE_TZ=True)
django.setup()

from django.db import DatabaseError, connection, models, transaction  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402


# recipe: account
# views.py
def set_account(account):
    with connection.cursor() as cursor:
        cursor.execute("SELECT entitlements.set_account(%s)", [account])


def for_account(view):
    """The view's work is one transaction for the account of whoever is logged in; durable: never a part of another one."""

    @functools.wraps(view)
    def bound(request, *arguments, **named):
        with transaction.atomic(durable=True):
            set_account(account_of(request))
            return view(request, *arguments, **named)

    return bound
# end


def account_of(request):
    """Stands for the application's own log-in."""
    return request.headers.get("Test-Account")


# recipe: refusal
# middleware.py
class DenialMiddleware:
    STATUS = {"NE001": 403, "NE002": 402, "NE012": 401}

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        """Called once the view's transaction is rolled back. None leaves any other exception to Django."""
        cause = exception.__cause__ if isinstance(exception, DatabaseError) else None
        sqlstate = getattr(cause, "sqlstate", None)
        if sqlstate not in self.STATUS:
            return None
        detail = json.loads(cause.diag.message_detail)
        if detail["reason"] != "rate_limited":
            return JsonResponse(detail, status=self.STATUS[sqlstate])
        again = datetime.fromisoformat(detail["resets_at"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
        return JsonResponse(detail, status=429, headers={"Retry-After": max(1, math.ceil(again.total_seconds()))})
# end


# models.py
class Report(models.Model):
    title = models.TextField()

    class Meta:
        app_label, db_table, managed = "recipe", "reports", False


class Export(models.Model):
    """Without a field for the account: the database fills in the current one."""

    file = models.TextField()
    request = models.TextField()

    class Meta:
        app_label, db_table, managed = "recipe", "exports", False


# views.py
@for_account
def reports(request):
    return JsonResponse(list(Report.objects.order_by("id").values_list("title", flat=True)), safe=False)


# recipe: work
def consume(feature, key):
    with connection.cursor() as cursor:
        cursor.execute("SELECT remaining FROM entitlements.consume(entitlements.current_account(), %s, 1, %s)", [feature, key])
        return cursor.fetchone()[0]


@for_account
def export(request):
    """Writes the row and takes the unit, once for a request however often it comes."""
    key = request.headers["Idempotency-Key"]
    Export.objects.get_or_create(request=key, defaults={"file": request.POST["file"]})
    return JsonResponse({"remaining": int(consume("exports", key))})
# end


@for_account
def search(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM entitlements.consume('searches')")
    return HttpResponse()


@for_account
def broken(request):
    Export.objects.create(file="b.csv", request="r2")
    consume("exports", "r2")
    raise OSError("the disk is full")


@for_account
def partly(request):
    try:
        with transaction.atomic():
            consume("exports", "r2")
            raise OSError("the disk is full")
    except OSError:
        return HttpResponse()


@for_account
def state(request):
    """How many exports there are, and how many units are used."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT used::int FROM entitlements.check_access('exports')")
        return JsonResponse([Export.objects.count(), cursor.fetchone()[0]], safe=False)


def unbound(request):
    """A view without an account, on the connection that others had one on."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT entitlements.current_account()")
        return JsonResponse(cursor.fetchone(), safe=False)


urlpatterns = [path(view.__name__, view) for view in (reports, export, search, broken, partly, state, unbound)]


def main():
    client = Client(raise_request_exception=False)

    def get(view, account, **headers):
        return client.get(f"/{view}", headers={"Test-Account": account, **headers} if account else headers)

    def post_export(account, file, key):
        return client.post("/export", {"file": file}, headers={"Test-Account": account, "Idempotency-Key": key})

    def state_of(account):
        return get("state", account).json()

    check("an account sees its own rows and no others", get("reports", "acme").json() == ["July", "August"])
    check("an account without the feature sees no rows", get("reports", "hobby").json() == [])
    check("without an account there are no rows", get("reports", None).json() == [])

    first = post_export("acme", "a.csv", "r1")
    check("a row and the unit it takes are committed together", first.json() == {"remaining": 2} and state_of("acme") == [1, 1])
    check("a rollback gives the unit back", get("broken", "acme").status_code == 500 and state_of("acme") == [1, 1])
    check("a rollback to a savepoint gives its unit back", get("partly", "acme").status_code == 200 and state_of("acme") == [1, 1])
    again = post_export("acme", "a.csv", "r1")
    check("the same request again takes nothing", again.json() == first.json() and state_of("acme") == [1, 1])

    post_export("acme", "b.csv", "r2")
    post_export("acme", "c.csv", "r3")
    refused = post_export("acme", "d.csv", "r4")
    check(
        "used up: 402, and the row is not there",
        refused.status_code == 402 and refused.json()["allowance"] == 3 and state_of("acme") == [3, 3],
    )
    check("not entitled: 403", post_export("hobby", "a.csv", "r1").status_code == 403)
    served, refused = get("search", "globex"), get("search", "globex")
    check(
        "too fast: 429 with Retry-After",
        served.status_code == 200 and refused.status_code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 60,
    )
    check("the next transaction of the connection has no account", get("unbound", None).json() == [None])


main()
finish()
