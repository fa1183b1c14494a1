"""Who is measured: gatepost and its peers, with configurations that do the same.

All know 1,000 users, refuse wrong credentials with 401, remove the client's X-Http-Auth and set it to the user's name, keep connections to the
upstream, write no access log, and have one worker. The plain proxies ask nobody: they show what the hop alone costs.
"""

import base64
import os
import pathlib
import re
import subprocess
from dataclasses import dataclass, field

# What is measured, from the root of the repository: as cargo builds it, and with a profile (`make binary PGO=1`). deploy/pgo.sh names another one.
GATEPOST = os.environ.get("GATEPOST", "target/release/gatepost")
GATEPOST_PGO = "target/pgo/gatepost"
USERS = 1000
PATH = "/api/inject/v1"
ANSWER = '{"success_count":1,"fail_count":0,"failed_recipients":[],"errors":[]}'
# More than the load has connections, so that none is closed for want of a place.
UPSTREAM_CONNECTIONS = 128
# More than any scenario opens.
CLIENT_CONNECTIONS = 10_200
# nginx begins to close idle connections where less than a sixteenth is left.
NGINX_CONNECTIONS = 12_000


@dataclass(frozen=True)
class Site:
    """One start of a subject: where its files are, and what the scenario asks of it."""

    root: pathlib.Path  # the repository
    folder: pathlib.Path  # for its configuration
    shared: pathlib.Path  # what is made once: users, certificate
    port: int
    upstream_port: int
    upstream_socket: pathlib.Path
    needs: frozenset = frozenset()  # of "tls", "trusted", "streaming" (large bodies)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    @property
    def certificate(self):
        return self.shared / "server.pem"

    @property
    def key(self):
        return self.shared / "server.key"


@dataclass(frozen=True)
class Subject:
    name: str
    title: str
    program: str  # looked for in PATH, or from the root of the repository
    configure: object  # Site -> arguments
    asks: bool = True  # whether it asks for credentials at all
    version: tuple = ()
    environment: dict = field(default_factory=dict)
    warm_s: int = 1  # until its caches are as they stay

    def executable(self, root):
        """Where its program is, or nothing."""
        if "/" in self.program:
            path = root / self.program
            return path if path.exists() else None
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            path = pathlib.Path(folder) / self.program
            if os.access(path, os.X_OK):
                return path
        return None

    def version_text(self, root):
        if not self.version:
            return ""
        said = subprocess.run([self.executable(root), *self.version], capture_output=True, text=True, timeout=10, check=False)
        found = re.search(r"\d+\.\d+[\w.+-]*", said.stdout + said.stderr)
        return found.group(0) if found else ""


def users():
    """Names, passwords, as everybody gets them."""
    return [(f"user{number:04}", f"password-{number:04}-of-the-bench") for number in range(1, USERS + 1)]


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def lua_table():
    return "".join(f"  {name} = '{password}',\n" for name, password in users())


# gatepost


def gatepost(site, upstream="tcp", cache="60s", throttle="off", message=False):
    site.write(
        "policy.lua",
        "local kumo = require 'kumo'\n\n"
        f"local users = {{\n{lua_table()}}}\n\n"
        "kumo.on('http_server_validate_auth_basic', function(user, password)\n"
        "  return users[user] ~= nil and users[user] == password\n"
        "end)\n"
        + (
            "\nkumo.on('http_message_generated', function(message, auth_info)\n"
            "  if message:sender().domain ~= 'bench.example' then\n"
            "    kumo.reject(550, 'not from here')\n"
            "  end\n"
            "end)\n"
            if message
            else ""
        ),
    )
    address = f"127.0.0.1:{site.upstream_port}" if upstream == "tcp" else f"unix:{site.upstream_socket}"
    tls = f"\n    tls_certificate: {site.certificate}\n    tls_private_key: {site.key}" if "tls" in site.needs else ""
    trusted = "trusted" in site.needs
    configuration = site.write(
        "gatepost.yaml",
        f"""# All load comes from one address. A throttle would answer most of what is wrong with 429 before the policy is asked,
# which is its purpose, but not what these scenarios measure. One scenario has it on.
throttle: {throttle}
# As for the peers: no access log (level info), no line for each refused request (level warn).
log: {{ level: error, format: text }}
admin: off
reload: {{ watch: off }}
threads: 1
listeners:
  - listen: 127.0.0.1:{site.port}{tls}
upstream:
  address: {address}
  max_idle_connections: {UPSTREAM_CONNECTIONS}
{"trusted_hosts: [127.0.0.1]" if trusted else ""}
policy: {{ file: policy.lua, workers: 1 }}
decision_cache: {{ ttl: {cache} }}
http:
  max_connections: {CLIENT_CONNECTIONS}
  max_requests_per_connection: off
  keepalive_timeout: 10m
routes:
  - path: {PATH}
    methods: [POST]
    allow: [authenticated{", trusted_hosts" if trusted else ""}]
    message_policy: {"true" if message else "false"}
""",
    )
    return ["run", "--config", configuration]


def bare_pingora(site):
    tls = ["--tls-certificate", site.certificate, "--tls-private-key", site.key] if "tls" in site.needs else []
    return ["--listen", f"127.0.0.1:{site.port}", "--upstream", f"127.0.0.1:{site.upstream_port}", *tls]


# nginx


def nginx_module(name):
    """The line that loads a module of Debian's."""
    said = subprocess.run(["nginx", "-V"], capture_output=True, text=True, timeout=10, check=False).stderr
    folder = re.search(r"--modules-path=(\S+)", said)
    return f"load_module {folder.group(1) if folder else '/usr/lib/nginx/modules'}/{name}.so;\n"


def nginx_frame(site_folder, modules, http):
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(f"  {kind}_temp_path {site_folder}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    return f"""{modules}{user}
daemon off;
worker_processes 1;
pid {site_folder}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile {NGINX_CONNECTIONS};
events {{ worker_connections {NGINX_CONNECTIONS}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
{temporary}{http}}}
"""


def nginx(site, modules="", http="", location=""):
    tls = "tls" in site.needs
    configuration = site.write(
        "nginx.conf",
        nginx_frame(
            site.folder,
            modules,
            f"""{http}  upstream api {{
    server 127.0.0.1:{site.upstream_port};
    keepalive {UPSTREAM_CONNECTIONS};
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
  }}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096{" ssl http2" if tls else ""};
{f"    ssl_certificate {site.certificate};" if tls else ""}
{f"    ssl_certificate_key {site.key};" if tls else ""}
    location / {{
{location}      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      {"proxy_request_buffering off;" if "streaming" in site.needs else ""}
    }}
  }}
""",
        ),
    )
    return ["-p", site.folder, "-c", configuration, "-e", "stderr"]


def nginx_auth_basic(site):
    passwords = site.write("passwords", "".join(f"{name}:{{PLAIN}}{password}\n" for name, password in users()))
    location = f"      auth_basic bench;\n      auth_basic_user_file {passwords};\n      proxy_set_header X-Http-Auth $remote_user;\n"
    return nginx(site, location=location)


def nginx_lua(site):
    site.write("users.lua", f"return {{\n{lua_table()}}}\n")
    modules = nginx_module("ndk_http_module") + nginx_module("ngx_http_lua_module")
    http = f"  lua_package_path '{site.folder}/?.lua;;';\n  init_by_lua_block {{ users = require 'users' }}\n"
    location = """      set $identity '';
      access_by_lua_block {
        local header = ngx.var.http_authorization
        local encoded = header and header:match('^Basic (.+)$')
        local decoded = encoded and ngx.decode_base64(encoded)
        local colon = decoded and decoded:find(':', 1, true)
        local user = colon and decoded:sub(1, colon - 1)
        if not user or users[user] ~= decoded:sub(colon + 1) then
          ngx.header['WWW-Authenticate'] = 'Basic realm="bench"'
          return ngx.exit(401)
        end
        ngx.var.identity = user
      }
      proxy_set_header X-Http-Auth $identity;
"""
    return nginx(site, modules, http, location)


# HAProxy


def haproxy(site, more_global="", userlist="", rules=""):
    tls = ""
    if "tls" in site.needs:
        both = site.write("both.pem", site.certificate.read_text() + site.key.read_text())
        tls = f" ssl crt {both} alpn h2,http/1.1"
    configuration = site.write(
        "haproxy.cfg",
        f"""global
  nbthread 1
  maxconn {CLIENT_CONNECTIONS}
  no strict-limits
{more_global}
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 60s
  timeout http-keep-alive 600s
  timeout http-request 10s
{userlist}
frontend clients
  bind 127.0.0.1:{site.port} backlog 4096{tls}
{rules}  default_backend api

backend api
  server api 127.0.0.1:{site.upstream_port} pool-max-conn {UPSTREAM_CONNECTIONS}
""",
    )
    return ["-db", "-f", configuration]


def haproxy_userlist(site):
    lines = "".join(f"  user {name} insecure-password {password}\n" for name, password in users())
    rules = (
        "  http-request auth realm bench unless { http_auth(users) }\n"
        "  http-request set-header X-Http-Auth %[http_auth_user]\n"
    )
    return haproxy(site, userlist=f"userlist users\n{lines}", rules=rules)


def haproxy_lua(site):
    script = site.write(
        "authenticate.lua",
        f"local users = {{\n{lua_table()}}}\n"
        """
core.register_action('authenticate', { 'http-req' }, function(txn)
  local header = txn.sf:req_hdr('authorization')
  local encoded = header:match('^Basic (.+)$')
  local decoded = encoded and txn.c:b64dec(encoded)
  local user, password = (decoded or ''):match('^([^:]*):(.*)$')
  if user and users[user] == password then
    txn:set_var('txn.user', user)
  end
end, 0)
""",
    )
    rules = (
        "  http-request lua.authenticate\n"
        "  http-request auth realm bench unless { var(txn.user) -m found }\n"
        "  http-request set-header X-Http-Auth %[var(txn.user)]\n"
    )
    return haproxy(site, more_global=f"  lua-load {script}\n", rules=rules)


# Caddy


def caddy(site):
    """The cheapest bcrypt, and basicauth of a Caddyfile keeps what it has hashed."""
    hashes = (site.shared / "bcrypt").read_text().split("\n")
    lines = "".join("      " + line.replace(":", " ", 1) + "\n" for line in hashes if line)
    tls = "tls" in site.needs
    configuration = site.write(
        "Caddyfile",
        f"""{{
  admin off
  auto_https off
  log default {{
    level ERROR
  }}
}}
{"https" if tls else "http"}://127.0.0.1:{site.port} {{
  bind 127.0.0.1
{f"  tls {site.certificate} {site.key}" if tls else ""}
  route {{
    request_header -X-Http-Auth
    basicauth bcrypt {{
{lines}    }}
    reverse_proxy 127.0.0.1:{site.upstream_port} {{
      header_up X-Http-Auth {{http.auth.user.id}}
      transport http {{
        keepalive_idle_conns_per_host {UPSTREAM_CONNECTIONS}
        keepalive 60s
        compression off
      }}
    }}
  }}
}}
""",
    )
    return ["run", "--config", configuration, "--adapter", "caddyfile"]


# Apache


def apache(site):
    """The cheapest hash that it knows, and mod_authn_socache, since it would read the whole file for each request otherwise."""
    passwords = site.write("passwords", (site.shared / "sha1").read_text())
    names = "mpm_event unixd authn_core authn_file authn_socache socache_shmcb authz_core authz_user auth_basic headers proxy proxy_http ssl http2"
    folder = pathlib.Path("/usr/lib/apache2/modules")
    modules = "".join(
        f"LoadModule {name}_module {folder}/mod_{name}.so\n" for name in names.split() if (folder / f"mod_{name}.so").exists()
    )
    tls = f"SSLEngine on\nSSLCertificateFile {site.certificate}\nSSLCertificateKeyFile {site.key}\nProtocols h2 http/1.1\n" if "tls" in site.needs else ""
    configuration = site.write(
        "apache.conf",
        f"""{modules}
ServerRoot {site.folder}
ServerName bench
DefaultRuntimeDir {site.folder}
PidFile {site.folder}/apache.pid
Mutex pthread
User www-data
Group www-data
Listen 127.0.0.1:{site.port}
ErrorLog /dev/stderr
LogLevel emerg
StartServers 1
ServerLimit 1
ThreadLimit {UPSTREAM_CONNECTIONS}
ThreadsPerChild {UPSTREAM_CONNECTIONS}
MaxRequestWorkers {UPSTREAM_CONNECTIONS}
MinSpareThreads 1
MaxSpareThreads {UPSTREAM_CONNECTIONS}
AsyncRequestWorkerFactor 100
KeepAlive On
KeepAliveTimeout 600
MaxKeepAliveRequests 0
{tls}AuthnCacheEnable
AuthnCacheSOCache shmcb:{site.folder}/authn(4194304)
<Location />
  AuthType Basic
  AuthName bench
  AuthBasicProvider socache file
  AuthnCacheProvideFor file
  AuthUserFile {passwords}
  Require valid-user
</Location>
RequestHeader set X-Http-Auth "expr=%{{REMOTE_USER}}"
ProxyPass / http://127.0.0.1:{site.upstream_port}/ enablereuse=on max={UPSTREAM_CONNECTIONS} ttl=60
""",
    )
    return ["-D", "FOREGROUND", "-f", configuration]


SUBJECTS = [
    Subject("gatepost", "gatepost", GATEPOST, gatepost, version=("--version",)),
    Subject("gatepost-pgo", "gatepost, built with a profile", GATEPOST_PGO, gatepost),
    Subject("gatepost-uncached", "gatepost, no decision cache", GATEPOST, lambda site: gatepost(site, cache="0s")),
    Subject("gatepost-unix", "gatepost, Unix socket upstream", GATEPOST, lambda site: gatepost(site, upstream="unix")),
    Subject("gatepost-message", "gatepost, message policy", GATEPOST, lambda site: gatepost(site, message=True)),
    Subject("gatepost-throttled", "gatepost, throttle on", GATEPOST, lambda site: gatepost(site, throttle="{ per_address: 100/min, longest_pause: 0s }")),
    Subject("bare-pingora", "bare pingora-proxy", "target/release/examples/bare_pingora", bare_pingora, asks=False),
    Subject("nginx", "nginx plain", "nginx", nginx, asks=False, version=("-v",)),
    Subject("nginx-auth-basic", "nginx auth_basic", "nginx", nginx_auth_basic),
    Subject("nginx-lua", "nginx + Lua", "nginx", nginx_lua),
    Subject("haproxy", "HAProxy plain", "haproxy", haproxy, asks=False, version=("-v",)),
    Subject("haproxy-userlist", "HAProxy userlist", "haproxy", haproxy_userlist),
    Subject("haproxy-lua", "HAProxy + Lua", "haproxy", haproxy_lua),
    # Its cache of hashes holds 1,000 and throws out a tenth when one more comes, so it takes a while until only our users are in it.
    Subject("caddy", "Caddy basicauth", "caddy", caddy, version=("version",), environment={"GOMAXPROCS": "1"}, warm_s=4),
    Subject("apache", "Apache mod_auth_basic", "apache2", apache, version=("-v",)),
]


def upstream(folder, port, unix_socket):
    """The configuration of the upstream: nginx, which reads the whole body before it answers, as an MTA does.

    With a query it answers with the head as it came, for the check of who is told what.
    """
    modules = nginx_module("ndk_http_module") + nginx_module("ngx_http_lua_module")
    unix_socket.unlink(missing_ok=True)
    # The kernel takes no longer ones; gatepost says so, too.
    unix = f"    listen unix:{unix_socket} backlog=4096;\n" if len(str(unix_socket)) < 108 else ""
    text = nginx_frame(
        folder,
        modules,
        f"""  client_body_buffer_size 128k;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
{unix}    location / {{
      content_by_lua_block {{
        if tonumber(ngx.var.http_content_length or 0) > 131072 then
          -- A large body goes nowhere, instead of into a file.
          local socket = ngx.req.socket()
          repeat local bytes = socket:receiveany(65536) until not bytes
        else
          ngx.req.read_body()
        end
        local answer = '{ANSWER}'
        if ngx.var.args then
          answer = ngx.req.raw_header()
        end
        ngx.header.content_length = #answer
        ngx.print(answer)
      }}
    }}
  }}
""",
    )
    path = folder / "nginx.conf"
    path.write_text(text)
    return ["nginx", "-p", folder, "-c", path, "-e", "stderr"]

TITLES = {subject.name: subject.title for subject in SUBJECTS}
