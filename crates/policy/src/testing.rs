//! Runs an operator's own tests of a policy: `gatepost test users_test.lua`.
//!
//! A test file is Lua. It requires `gatepost.test`, loads policies with it, sends them credentials and
//! messages as requests would, and says what should come of them. The library for that is `testing.lua`.

mod message;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::{CredentialRules, Credentials, Judgement, MissingPassword, Secret};
use mlua::{Function, Lua, Table, UserData, UserDataMethods, Value};

use crate::api::Common;
use crate::vm::Vm;
use crate::{LoadError, Policy, PolicySettings};

/// How long one case may take.
const CASE_TIME: Duration = Duration::from_secs(60);

/// One case of a test file.
#[derive(Debug)]
pub struct TestCase {
    /// What it is called.
    pub name: String,
    /// `Err` with the reason and its place where it failed.
    pub result: Result<(), String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs a test file, case by case.
///
/// # Errors
///
/// [`LoadError`] where the file itself does not load; a case that fails is no error.
pub fn run_tests(file: &Path) -> Result<Vec<TestCase>, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(file))
}

async fn run(file: &Path) -> Result<Vec<TestCase>, LoadError> {
    let settings = settings(file);
    let vm = Vm::bare(&settings, &Common::default()).map_err(|fault| lua_fault(&fault))?;
    let cases = vm
        .extend(|lua| install(lua, file.parent().unwrap_or(Path::new(""))))
        .map_err(|fault| lua_fault(&fault))?;
    vm.load_file(file).await?;
    let mut done = Vec::new();
    for case in cases.sequence_values::<Table>() {
        let case = case.map_err(|fault| lua_fault(&fault))?;
        let body: Function = case.get("body").map_err(|fault| lua_fault(&fault))?;
        let begin = Instant::now();
        let result = vm.call::<()>(&body, (), begin + CASE_TIME, |_| {}).await;
        done.push(TestCase {
            name: case.get("name").map_err(|fault| lua_fault(&fault))?,
            result: result.map_err(|fault| crate::vm::first_line(&fault)),
            took: begin.elapsed(),
        });
    }
    Ok(done)
}

fn lua_fault(fault: &mlua::Error) -> LoadError {
    LoadError::Lua(crate::vm::first_line(fault))
}

fn settings(file: &Path) -> PolicySettings {
    PolicySettings {
        file: file.to_owned(),
        workers: 1,
        queue: 1024,
        callback_timeout: Duration::from_secs(5),
        memory_limit: 256 << 20,
        cache_ttl: Duration::ZERO,
        cache_capacity: 1,
    }
}

/// Gives the state the module `gatepost.test`; the table is filled with cases when the file runs.
fn install(lua: &Lua, folder: &Path) -> mlua::Result<Table> {
    let cases = lua.create_table()?;
    let folder = folder.to_owned();
    let load = lua.create_async_function(move |_, path: String| {
        let file = folder.join(path);
        async move {
            let loading = tokio::task::spawn_blocking(move || {
                Policy::load(settings(&file), &Arc::default()).map_err(|fault| fault.to_string())
            });
            let policy = loading.await.map_err(mlua::Error::external)?;
            Ok(TestedPolicy(Arc::new(
                policy.map_err(mlua::Error::runtime)?,
            )))
        }
    })?;
    let module: Table = lua
        .load(include_str!("testing.lua"))
        .set_name("=gatepost.test")
        .call((load, &cases))?;
    lua.register_module("gatepost.test", module)?;
    Ok(cases)
}

struct TestedPolicy(Arc<Policy>);

impl UserData for TestedPolicy {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method("request", async |lua, this, request: Table| {
            let policy = this.0.clone();
            drop(this);
            let answer = lua.create_table()?;
            match credentials(&request)? {
                Err(reason) => {
                    answer.set("outcome", "refused")?;
                    answer.set("reason", reason)?;
                }
                Ok(credentials) => describe(&lua, &answer, policy.judge(credentials).await)?,
            }
            Ok(answer)
        });
        methods.add_async_method("message", async |lua, this, of: Table| {
            let policy = this.0.clone();
            drop(this);
            let answer = lua.create_table()?;
            let judgement = policy.judge_message(message::question(&of)?).await;
            message::describe(&lua, &answer, judgement)?;
            Ok(answer)
        });
    }
}

/// The credentials of a request, held against the rules that a header is held against. The inner error is
/// the reason for which gatepost refuses them before the policy sees them.
fn credentials(request: &Table) -> mlua::Result<Result<Credentials, String>> {
    for pair in request.pairs::<String, Value>() {
        let (key, _) = pair?;
        if !["user", "password", "bearer", "missing_password"].contains(&key.as_str()) {
            return Err(mlua::Error::runtime(format!("a request has no `{key}`")));
        }
    }
    if let Some(token) = request.get::<Option<String>>("bearer")? {
        return Ok(Ok(Credentials::Bearer {
            token: Secret::from(token.as_str()),
        }));
    }
    let user: Option<String> = request.get("user")?;
    let user =
        user.ok_or_else(|| mlua::Error::runtime("a request needs a `user` or a `bearer`"))?;
    let password: Option<String> = request.get("password")?;
    let rules = CredentialRules {
        missing_password: match request
            .get::<Option<String>>("missing_password")?
            .as_deref()
        {
            Some("nil") => MissingPassword::Nil,
            _ => MissingPassword::Refuse,
        },
        ..CredentialRules::default()
    };
    let made = Credentials::basic(&user, password.as_deref(), &rules);
    Ok(made.map_err(|fault| fault.to_string()))
}

fn describe(lua: &Lua, answer: &Table, judgement: Judgement) -> mlua::Result<()> {
    answer.set("outcome", judgement.outcome())?;
    if let Judgement::Accepted(info) = judgement {
        answer.set("identity", info.http_auth())?;
        answer.set(
            "groups",
            lua.create_sequence_from(info.groups().iter().cloned())?,
        )?;
    }
    Ok(())
}
