//! The tables of raw requests in front of nginx and haproxy: readers that are strict in other places must count what gatepost counts.

use std::net::SocketAddr;

use crate::harness::{Recorder, Setup, wait_for};
use crate::program::Program;
use crate::raw_requests::{self, HTTP1, HTTP2, Protocol, Row, Upstream};

/// An nginx as the upstream, in front of another. It logs each request that it takes for one.
fn nginx(upstream: SocketAddr) -> Program {
    let arguments = ["-p", ".", "-c", "config", "-e", "stderr"];
    Program::start("nginx", &arguments, 1, |listen, folder| {
        let (listen, folder) = (listen[0], folder.display());
        // One process, so that nothing is left when it is killed.
        format!(
            "daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  log_format counted '$status $request';
  access_log {folder}/requests counted;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {listen};
    location / {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
    }}
  }}
}}
"
        )
    })
}

/// A haproxy as the upstream, in front of another. It logs to its standard output.
fn haproxy(upstream: SocketAddr) -> Program {
    Program::start("haproxy", &["-db", "-f", "config"], 1, |listen, _| {
        let listen = listen[0];
        format!(
            "global
  log stdout format raw local0
defaults
  mode http
  log global
  option dontlognull
  log-format \"%ST %{{+Q}}r\"
  timeout connect 10s
  timeout client 30s
  timeout server 30s
listen upstream
  bind {listen}
  server upstream {upstream}
"
        )
    })
}

/// The need: what gatepost takes for one request is one to nginx, and what it refuses is none.
#[test]
fn nginx_counts_as_gatepost_does() {
    let behind = Recorder::start();
    let nginx = nginx(behind.address);
    let requests = nginx.folder().join("requests");
    agree(&nginx, &behind, || {
        std::fs::read_to_string(&requests).unwrap()
    });
}

/// The same for haproxy, which passes bodies on as they come.
#[test]
fn haproxy_counts_as_gatepost_does() {
    let behind = Recorder::start();
    let haproxy = haproxy(behind.address);
    agree(&haproxy, &behind, || haproxy.output());
}

/// Sends each row past gatepost to this server, and holds what it logged and what it handed on against the row.
fn agree(server: &Program, behind: &Recorder, log: impl Fn() -> String) {
    let gate = Setup::before(server.addresses[0])
        .routes(raw_requests::ROUTES)
        .start();
    // How many lines say that a request was served, and how many say something else.
    let logged = || {
        let text = log();
        let lines = text
            .lines()
            .filter_map(|it| it.split_once(' ')?.0.parse::<u16>().ok());
        let (served, others): (Vec<_>, Vec<_>) = lines.partition(|it| *it == 200);
        (served.len(), others.len())
    };
    let (mut served, mut refused, mut faults) = (0, 0, Vec::new());
    for (protocol, nth, row) in unfinished_last() {
        // The server may wait for the whole request before it says anything to anybody.
        let answer = raw_requests::send(&gate, protocol, (nth, &row), &|| true);
        let next = raw_requests::marker("next", nth);
        raw_requests::is_served(&gate, &next);
        let mut markers = vec![next];
        markers.extend((!answer.closes).then(|| raw_requests::marker("same", nth)));
        let mut fault = |what: String| faults.push(format!("{} ({}): {what}", row.name, row.rule));
        // Not whether the connection stays: behind the server's `100 Continue`, where it comes in time, it does not.
        let wanted = &row.want.answer;
        if (&answer.status, &answer.error) != (&wanted.status, &wanted.error) {
            fault(format!("{answer:?}"));
        }
        served += markers.len() + usize::from(matches!(row.want.upstream, Upstream::One(_)));
        wait_for(&row.name, || logged().0 >= served);
        let (more, others) = logged();
        if more > served {
            fault(format!("{} requests too many", more - served));
            served = more;
        }
        if others > refused && row.want.upstream != Upstream::Unfinished {
            fault(format!("{} requests were refused", others - refused));
        }
        refused = others;
        if let Err(what) = check_behind(&row, &behind.take(), &markers) {
            fault(what);
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert_eq!(logged().0, served, "something came late");
    assert!(behind.take().is_empty(), "something came late");
}

/// All rows, and at their end those of which only a beginning reaches the server: that it refuses.
fn unfinished_last() -> Vec<(Protocol, usize, Row)> {
    let mut all = Vec::new();
    for (protocol, table) in [(Protocol::Http1, HTTP1), (Protocol::Http2, HTTP2)] {
        let rows = raw_requests::rows(table).into_iter().enumerate();
        all.extend(rows.map(|(nth, row)| (protocol, nth, row)));
    }
    all.sort_by_key(|(_, _, row)| row.want.upstream == Upstream::Unfinished);
    all
}

/// Method, target and body are what they were; the rest of the head is the server's own.
fn check_behind(row: &Row, taken: &[Vec<u8>], markers: &[String]) -> Result<(), String> {
    let (requests, _) = raw_requests::came(taken, markers)?;
    let wanted: Vec<_> = match &row.want.upstream {
        Upstream::One(request) => vec![(&request.line, &request.body)],
        Upstream::Nothing | Upstream::Unfinished => Vec::new(),
    };
    let came: Vec<_> = requests.iter().map(|it| (&it.line, &it.body)).collect();
    if came == wanted {
        Ok(())
    } else {
        Err(format!("{came:?}"))
    }
}
