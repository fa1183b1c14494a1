"""Whether a subject does what it is measured for. One that does not is reported as failed, and not measured."""

import http.client
import ssl

from processes import Failure
from subjects import PATH, basic

FORGED = "mallory"


def ask(site, authorization=None, echo=False):
    """Status and body of one request of ours, with a forged identity."""
    if "tls" in site.needs:
        # The certificate is our own, and nobody vouches for it.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", site.port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    headers = {"Content-Type": "application/json", "X-Http-Auth": FORGED}
    if authorization:
        headers["Authorization"] = authorization
    try:
        connection.request("POST", PATH + ("?echo" if echo else ""), (site.shared / "body-2k").read_bytes(), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("latin-1")
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"a request got no answer: {error!r}") from None
    finally:
        connection.close()


def told(head):
    """What the upstream was told of who it is: the values of all headers of that name."""
    lines = (line.partition(":") for line in head.split("\r\n"))
    return [value.strip() for name, _, value in lines if name.strip().lower().replace("_", "-") == "x-http-auth"]


def check(subject, site, users):
    user, password = users[-1]
    status, head = ask(site, basic(user, password), echo=True)
    expect("good credentials", status, 200)
    if not subject.asks:
        return
    expect("X-Http-Auth at the upstream", told(head), [user])
    expect("a wrong password", ask(site, basic(user, password + "x"))[0], 401)
    expect("an unknown user", ask(site, basic("nobody", password))[0], 401)
    if "trusted" in site.needs:
        status, head = ask(site, echo=True)
        expect("a trusted host without credentials", status, 200)
        expect("X-Http-Auth at the upstream", told(head), ["127.0.0.1"])
    else:
        expect("no credentials", ask(site)[0], 401)


def expect(what, found, wanted):
    if found != wanted:
        raise Failure(f"{what}: {found}, not {wanted}")
