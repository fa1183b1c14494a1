//! One Lua state with the policy loaded into it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement};
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, StdLib, Value};

use crate::api::hashes::HashFault;
use crate::api::http::Clients;
use crate::api::message::{Lent, auth_info};
use crate::api::{self, Common, Host};
use crate::hook::{self, Turn};
use crate::redact::{redact, redact_message};
use crate::{LoadError, LoadReport, MessageJudgement, MessageQuestion, PolicySettings, convert};

/// How long a policy file may take to run. It may fetch things; it may not hang.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadTime(pub(crate) Duration);

impl Default for LoadTime {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

pub(crate) const BASIC: &str = "http_server_validate_auth_basic";
pub(crate) const BEARER: &str = "http_server_validate_auth_bearer";
pub(crate) const MESSAGE: &str = "http_message_generated";

/// INVARIANT: a `Function` outlives its `Lua` only to panic when it is used, so both stay together here
/// and nothing hands a `Function` out.
pub(crate) struct Vm {
    registry: Registry,
    turn: Turn,
    lua: Lua,
    memory_limit: usize,
}

/// Whether gatepost calls the handlers of an event.
pub(crate) fn is_asked(event: &str) -> bool {
    [BASIC, BEARER, MESSAGE].contains(&event)
}

/// What the file registers, shared with the functions that it calls.
#[derive(Clone, Default)]
pub(crate) struct Registry(Rc<Registered>);

#[derive(Default)]
struct Registered {
    /// Set once the file has run: from then on nothing is registered any more.
    serving: Cell<bool>,
    handlers: RefCell<BTreeMap<String, Handler>>,
    warnings: RefCell<Vec<String>>,
}

struct Handler {
    function: Function,
    place: String,
}

impl Registry {
    pub(crate) fn is_serving(&self) -> bool {
        self.0.serving.get()
    }

    /// Says something once.
    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.0.warnings.borrow_mut();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub(crate) fn register(&self, event: &str, function: Function, place: &str) {
        let handler = Handler {
            function,
            place: place.to_owned(),
        };
        let earlier = self
            .0
            .handlers
            .borrow_mut()
            .insert(event.to_owned(), handler);
        if let Some(earlier) = earlier
            && is_asked(event)
        {
            self.warn(format!(
                "{place}: {event} is registered twice; the handler of {} is not used",
                earlier.place
            ));
        }
    }

    fn handler(&self, event: &str) -> Option<Function> {
        self.0
            .handlers
            .borrow()
            .get(event)
            .map(|handler| handler.function.clone())
    }

    fn report(&self) -> LoadReport {
        let handlers = self.0.handlers.borrow();
        let never: Vec<&str> = handlers
            .keys()
            .map(String::as_str)
            .filter(|event| !is_asked(event))
            .collect();
        if !never.is_empty() {
            tracing::info!(
                events = never.join(", "),
                "the policy registers events that never happen here"
            );
        }
        let mut warnings = self.0.warnings.borrow().clone();
        let handles_basic = handlers.contains_key(BASIC);
        if !handles_basic {
            warnings.push(format!(
                "the policy has no handler for {BASIC}: Basic credentials are refused"
            ));
        }
        LoadReport {
            warnings,
            handles_basic,
            handles_bearer: handlers.contains_key(BEARER),
            handles_messages: handlers.contains_key(MESSAGE),
        }
    }
}

impl Vm {
    /// Makes a state and runs the file in it. Must run inside a tokio runtime.
    pub(crate) async fn load(
        settings: &PolicySettings,
        common: &Common,
    ) -> Result<(Self, LoadReport), LoadError> {
        let file = &settings.file;
        let source = common
            .sources
            .read(file)
            .map_err(|source| LoadError::Read {
                file: file.clone(),
                source,
            })?;
        let vm =
            Self::bare(settings, common).map_err(|fault| LoadError::Lua(first_line(&fault)))?;
        let limit = common.load_time.0;
        let deadline = Instant::now() + limit;
        let ran = vm.run_file(file, &source, deadline).await;
        if Instant::now() >= deadline {
            return Err(LoadError::TooSlow {
                file: file.clone(),
                limit,
            });
        }
        ran.map_err(|fault| LoadError::Lua(first_line(&fault)))?;
        vm.registry.0.serving.set(true);
        let report = vm.registry.report();
        if !report.handles_basic && !report.handles_bearer && !report.handles_messages {
            return Err(LoadError::NoHandler { file: file.clone() });
        }
        Ok((vm, report))
    }

    /// Reads a file and runs it.
    pub(crate) async fn load_file(&self, file: &Path) -> Result<(), LoadError> {
        let source = std::fs::read(file).map_err(|source| LoadError::Read {
            file: file.to_owned(),
            source,
        })?;
        let LoadTime(limit) = LoadTime::default();
        let deadline = Instant::now() + limit;
        let ran = self.run_file(file, &source, deadline).await;
        if Instant::now() >= deadline {
            return Err(LoadError::TooSlow {
                file: file.to_owned(),
                limit,
            });
        }
        ran.map_err(|fault| LoadError::Lua(first_line(&fault)))
    }

    /// Adds to what the file will be able to call.
    pub(crate) fn extend<T>(&self, with: impl FnOnce(&Lua) -> mlua::Result<T>) -> mlua::Result<T> {
        with(&self.lua)
    }

    /// A state with everything that a policy can call, and no policy yet.
    pub(crate) fn bare(settings: &PolicySettings, common: &Common) -> mlua::Result<Self> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::IO
            | StdLib::OS
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::PACKAGE;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        lua.set_memory_limit(settings.memory_limit)?;
        let vm = Self {
            registry: Registry::default(),
            turn: Turn::default(),
            lua,
            memory_limit: settings.memory_limit,
        };
        hook::install(&vm.lua, &vm.turn)?;
        let folder = settings.file.parent().unwrap_or(Path::new(""));
        let clients = Clients::new(&vm.lua, &common.roots, settings.memory_limit);
        let host = Host {
            registry: &vm.registry,
            turn: &vm.turn,
            common,
            clients: &clients,
            folder,
        };
        api::install(&vm.lua, &host)?;
        Ok(vm)
    }

    async fn run_file(&self, file: &Path, source: &[u8], deadline: Instant) -> mlua::Result<()> {
        // Lua shows a chunk whose name begins with `@` as a file name.
        let chunk = self
            .lua
            .load(source)
            .set_name(format!("@{}", file.display()));
        let function = chunk.set_mode(ChunkMode::Text).into_function()?;
        self.call::<()>(&function, (), deadline, |_| {}).await
    }

    /// Runs a function as a coroutine of its own, under the hook.
    pub(crate) async fn call<R: mlua::FromLuaMulti>(
        &self,
        function: &Function,
        arguments: impl mlua::IntoLuaMulti,
        deadline: Instant,
        watch: impl Fn(bool) + Unpin,
    ) -> mlua::Result<R> {
        let thread = self.lua.create_thread(function.clone())?;
        let coroutine = thread.to_pointer();
        let running = thread.into_async::<R>(arguments)?;
        let timed = self
            .turn
            .take(deadline, coroutine, watch, Box::pin(running));
        match tokio::time::timeout_at(deadline.into(), timed).await {
            Ok(result) => result,
            Err(_) => Err(mlua::Error::runtime("the call took too long")),
        }
    }

    /// Asks the handler. `watch` is told true before and false after every stretch of running.
    pub(crate) async fn judge(
        &self,
        credentials: &Credentials,
        deadline: Instant,
        watch: impl Fn(bool) + Unpin,
    ) -> Judgement {
        let answered = match credentials {
            Credentials::Basic { user, password } => {
                let Some(handler) = self.registry.handler(BASIC) else {
                    return Judgement::NoHandler;
                };
                let password = password.as_ref().map(gatepost_auth::Secret::expose);
                self.call::<Value>(&handler, (user.as_str(), password), deadline, watch)
                    .await
            }
            Credentials::Bearer { token } => {
                let Some(handler) = self.registry.handler(BEARER) else {
                    return Judgement::NoHandler;
                };
                self.call::<Value>(&handler, token.expose(), deadline, watch)
                    .await
            }
        };
        if Instant::now() >= deadline {
            tracing::warn!(?credentials, "the policy took too long");
            self.let_go();
            return Judgement::TimedOut;
        }
        if answered.as_ref().is_err_and(HashFault::is_why) {
            return Judgement::Overloaded;
        }
        let answer = answered.map_err(|fault| first_line(&fault));
        match answer.and_then(|answer| convert::judgement(credentials, &answer)) {
            Ok(judgement) => judgement,
            Err(reason) => {
                tracing::error!(
                    ?credentials,
                    reason = redact(reason, credentials),
                    "the policy failed"
                );
                Judgement::Failed
            }
        }
    }

    /// Shows the message to its handler, whose results do not matter: what it does not refuse, it accepts.
    pub(crate) async fn judge_message(
        &self,
        asked: &MessageQuestion,
        deadline: Instant,
        watch: impl Fn(bool) + Unpin,
    ) -> MessageJudgement {
        let Some(handler) = self.registry.handler(MESSAGE) else {
            return MessageJudgement::NoHandler;
        };
        let lent = Lent::new(asked);
        let answered = match auth_info(&self.lua, asked) {
            Ok(info) => {
                let arguments = (lent.object(), info);
                self.call::<()>(&handler, arguments, deadline, watch).await
            }
            Err(fault) => Err(fault),
        };
        if Instant::now() >= deadline {
            tracing::warn!(?asked, "the message policy took too long");
            self.let_go();
            return MessageJudgement::TimedOut;
        }
        let Err(fault) = answered else {
            return MessageJudgement::Accepted { meta: lent.meta() };
        };
        if HashFault::is_why(&fault) {
            return MessageJudgement::Overloaded;
        }
        match convert::rejection(&fault) {
            Ok(judgement) => judgement,
            Err(reason) => {
                let reason = redact_message(&reason, &asked.message);
                tracing::error!(?asked, reason, "the message policy failed");
                MessageJudgement::Failed
            }
        }
    }

    /// What a call that took too long waited for (a connection, a place in a pool) belongs to its coroutine, and is let
    /// go of when Lua collects that. Out of memory, the worker is replaced anyway.
    fn let_go(&self) {
        let _ = self.lua.gc_collect();
    }

    /// Whether the state holds on to so much memory that later calls would suffer.
    pub(crate) fn is_worn(&self) -> bool {
        // Without memory to collect in, it is worn in any case.
        self.lua.gc_collect().is_err() || self.lua.used_memory() > self.memory_limit / 2
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.registry.0.handlers.borrow_mut().clear();
    }
}

/// The error without Lua's traceback, which is of use to the author of a library, not of a policy.
pub(crate) fn first_line(fault: &mlua::Error) -> String {
    let text = fault.to_string();
    let text = text.split("\nstack traceback:").next().unwrap_or_default();
    let text = ["runtime error: ", "syntax error: ", "memory error: "]
        .iter()
        .find_map(|kind| text.strip_prefix(kind))
        .unwrap_or(text);
    text.trim().to_owned()
}
