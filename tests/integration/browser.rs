//! A browser without a window (Debian's Chromium), told what to do through WebDriver: HTTP and JSON to the `chromedriver` beside it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::harness::{Connection, PATIENCE, TRUSTED};

/// One at a time: each takes what two cores have to give.
static ONLY: Mutex<()> = Mutex::new(());

/// A browser with one tab. It ends when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// The browser's own process.
    process: u64,
    /// Its profile, and its home.
    _folder: tempfile::TempDir,
    _only: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts one, with a window of this size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        // A test that failed has ended its browser too.
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let (driver, address) = driver(folder.path());
        let mut browser = Self {
            driver,
            address,
            session: String::new(),
            process: 0,
            _folder: folder,
            _only: only,
        };
        let profile = browser._folder.path().join("profile");
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        arguments.push(format!("--window-size={width},{height}"));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let started = browser.call("POST", "/session", &wanted);
        started["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut browser.session);
        let process = &started["capabilities"]["goog:processID"];
        browser.process = process.as_u64().unwrap();
        browser
    }

    /// Goes to a page.
    pub(crate) fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// What a piece of JavaScript on the page returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The same as text.
    pub(crate) fn text(&self, script: &str) -> String {
        self.run(script).as_str().unwrap_or_default().to_owned()
    }

    /// The text that a reader sees in the element of this id.
    pub(crate) fn words(&self, id: &str) -> String {
        self.text(&format!("return document.getElementById('{id}').innerText"))
    }

    /// Waits until the page says this in the element of this id.
    pub(crate) fn wait_words(&self, id: &str, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.words(id);
            if said.contains(words) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for `{words}` in #{id}, which says `{said}`"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses a key, or types a text.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                let key = key.to_string();
                [
                    json!({ "type": "keyDown", "value": key }),
                    json!({ "type": "keyUp", "value": key }),
                ]
            })
            .collect();
        let actions =
            json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.post("actions", &actions);
    }

    /// As if the screen were of this width, in pixels of CSS.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// As if the operator liked it `light` or `dark`.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Writes a picture of what is in the window, as PNG.
    pub(crate) fn picture(&self, file: &Path) {
        let picture = self.call("GET", &self.path("screenshot"), &Value::Null);
        let picture = base64::engine::general_purpose::STANDARD
            .decode(picture.as_str().unwrap())
            .unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, picture).unwrap();
    }

    /// What the console said since it was asked last: errors of scripts, and what the page's policy forbade.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().unwrap().iter();
        entries
            .map(|it| it["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Ends the browser. A test that fails already comes here too, so nothing here does.
    fn close(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.session, self.address
        )?;
        stream.read_exact(&mut [0])
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        let asked = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", &asked);
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &self.path(path), body)
    }

    fn path(&self, path: &str) -> String {
        format!("/session/{}/{path}", self.session)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut connection = Connection::open(self.address, TRUSTED);
        connection.write(format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ));
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        reply.json()["value"].clone()
    }
}

/// A free port may be taken by somebody else before it has it; then there is another try. (Port 0 it does not take.)
fn driver(home: &Path) -> (Child, SocketAddr) {
    for _ in 0..5 {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        // Gives way to the tests that run beside it, some of which look at the clock.
        let mut driver = Command::new("nice")
            .args(["-n", "10", "chromedriver"])
            .arg(format!("--port={}", address.port()))
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let mut said = lines.by_ref().map_while(Result::ok);
        if said.any(|line| line.contains("started successfully")) {
            // It goes on writing, and would stop where nobody reads.
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
            return (driver, address);
        }
        let _ = driver.wait();
    }
    panic!("chromedriver, which `make integration` installs, does not start");
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.process != 0 && self.close().is_err() {
            // Its children end with it.
            let _ = Command::new("kill")
                .args(["-KILL", &self.process.to_string()])
                .status();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
