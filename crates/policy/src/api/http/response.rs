//! Answers, and the bound on what they take.
//!
//! They are kept outside of Lua, whose memory limit does not see them, so they have a limit of the same size of their own.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value, WeakLua};
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};

/// The longest answer, in bytes.
const LONGEST: usize = 10 * 1024 * 1024;

/// What requests and answers of one Lua state may take together. Clones are the same thing.
#[derive(Clone)]
pub(super) struct Budget(Rc<Purse>);

struct Purse {
    most: usize,
    spent: Cell<usize>,
    lua: WeakLua,
}

impl Budget {
    pub(super) fn new(lua: &Lua, most: usize) -> Self {
        Self(Rc::new(Purse {
            most,
            spent: Cell::new(0),
            lua: lua.weak(),
        }))
    }

    pub(super) fn hold(&self) -> Held {
        Held {
            budget: self.clone(),
            bytes: 0,
            collected: false,
        }
    }
}

/// A part of the budget, given back when it is dropped.
pub(in crate::api) struct Held {
    budget: Budget,
    bytes: usize,
    /// Whether Lua's garbage was collected for it: once is enough.
    collected: bool,
}

impl Held {
    /// Takes more of the budget.
    pub(super) fn grow(&mut self, bytes: usize) -> mlua::Result<()> {
        if self.fits(bytes) {
            return Ok(());
        }
        // To Lua an answer is a few bytes, so nothing made it collect those that nobody needs any more.
        if !self.collected
            && let Some(lua) = self.budget.0.lua.try_upgrade()
        {
            self.collected = true;
            lua.gc_collect()?;
            if self.fits(bytes) {
                return Ok(());
            }
        }
        Err(mlua::Error::runtime(format!(
            "the requests and answers of services take more than {} bytes together",
            self.budget.0.most
        )))
    }

    fn fits(&mut self, bytes: usize) -> bool {
        let purse = &self.budget.0;
        let spent = purse.spent.get().saturating_add(bytes);
        let fits = spent <= purse.most;
        if fits {
            purse.spent.set(spent);
            self.bytes += bytes;
        }
        fits
    }

    pub(super) fn clear(&mut self) {
        let spent = &self.budget.0.spent;
        spent.set(spent.get().saturating_sub(self.bytes));
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The whole chain of causes, but not the address: it may hold a token.
pub(super) fn failed(fault: &reqwest::Error) -> mlua::Error {
    if fault.is_timeout() {
        return mlua::Error::runtime("the service did not answer in time");
    }
    let mut words = "the service cannot be reached".to_owned();
    let mut cause = std::error::Error::source(fault);
    while let Some(source) = cause {
        words = format!("{words}: {source}");
        cause = source.source();
    }
    mlua::Error::runtime(words)
}

/// The body, if it is not too long, alone or with all others that are held.
pub(in crate::api) async fn bounded_body(
    mut response: Response,
    held: &mut Held,
) -> mlua::Result<Vec<u8>> {
    let too_long = || {
        mlua::Error::runtime(format!(
            "the service's answer is longer than {LONGEST} bytes"
        ))
    };
    if response
        .content_length()
        .is_some_and(|length| usize::try_from(length).map_or(true, |length| length > LONGEST))
    {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|fault| failed(&fault))? {
        if body.len() + piece.len() > LONGEST {
            return Err(too_long());
        }
        held.grow(piece.len())?;
        body.extend_from_slice(&piece);
    }
    // It may have grown to twice what it needs.
    body.shrink_to_fit();
    Ok(body)
}

/// What headers take, in bytes.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// An answer, body and all: it was read under the request's own time limit.
pub(super) struct Answer {
    status: StatusCode,
    content: Rc<Content>,
}

struct Content {
    headers: HeaderMap,
    body: Vec<u8>,
    _held: Held,
}

impl Answer {
    pub(super) async fn read(response: Response, mut held: Held) -> mlua::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        held.grow(size(&headers))?;
        let body = bounded_body(response, &mut held).await?;
        let content = Rc::new(Content {
            headers,
            body,
            _held: held,
        });
        Ok(Self { status, content })
    }
}

impl UserData for Answer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("status_code", |_, this, ()| Ok(this.status.as_u16()));
        methods.add_method("status_reason", |_, this, ()| {
            Ok(this.status.canonical_reason())
        });
        methods.add_method("status_is_informational", |_, this, ()| {
            Ok(this.status.is_informational())
        });
        methods.add_method("status_is_success", |_, this, ()| {
            Ok(this.status.is_success())
        });
        methods.add_method("status_is_redirection", |_, this, ()| {
            Ok(this.status.is_redirection())
        });
        methods.add_method("status_is_client_error", |_, this, ()| {
            Ok(this.status.is_client_error())
        });
        methods.add_method("status_is_server_error", |_, this, ()| {
            Ok(this.status.is_server_error())
        });
        methods.add_method("headers", |_, this, ()| Ok(Headers(this.content.clone())));
        methods.add_method("content_length", |_, this, ()| Ok(this.content.body.len()));
        methods.add_method("text", |lua, this, ()| {
            lua.create_string(String::from_utf8_lossy(&this.content.body).as_bytes())
        });
        methods.add_method("bytes", |lua, this, ()| {
            lua.create_string(&this.content.body)
        });
    }
}

/// The headers of an answer, by name in any case.
struct Headers(Rc<Content>);

impl UserData for Headers {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let first = |lua: &Lua, this: &Self, name: &str| -> mlua::Result<Value> {
            match this.0.headers.get(name) {
                Some(value) => lua.create_string(value.as_bytes()).map(Value::String),
                None => Ok(Value::Nil),
            }
        };
        methods.add_method("get", move |lua, this, name: String| {
            first(lua, this, &name)
        });
        methods.add_meta_method(MetaMethod::Index, move |lua, this, name: String| {
            first(lua, this, &name)
        });
    }
}
