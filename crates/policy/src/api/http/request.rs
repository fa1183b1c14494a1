//! Requests, as a policy puts them together.

use mlua::{AnyUserData, Table, UserData, UserDataMethods, Value};
use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::super::{bad_argument, duration, text};
use super::response::{Answer, Held, failed, size};
use super::sorted;

/// A request being made. Its methods give it back, so that they can be chained.
pub(super) struct Request {
    /// Gone once it is sent.
    builder: Option<(RequestBuilder, Held)>,
}

impl Request {
    pub(super) fn new(builder: RequestBuilder, held: Held) -> Self {
        Self {
            builder: Some((builder, held)),
        }
    }

    /// Adds something of so many bytes.
    fn change(
        this: &AnyUserData,
        bytes: usize,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> mlua::Result<AnyUserData> {
        let mut request = this.borrow_mut::<Self>()?;
        let (_, held) = request.builder.as_mut().ok_or_else(sent)?;
        held.grow(bytes)?;
        request.builder = request
            .builder
            .take()
            .map(|(builder, held)| (with(builder), held));
        Ok(this.clone())
    }
}

fn sent() -> mlua::Error {
    mlua::Error::runtime("the request was sent already")
}

impl UserData for Request {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_function(
            "header",
            |_, (this, name, value): (AnyUserData, Value, Value)| {
                let mut headers = HeaderMap::new();
                add_header(&mut headers, &text(&name, 1, "header")?, &value)?;
                Self::change(&this, size(&headers), |builder| builder.headers(headers))
            },
        );
        methods.add_function("headers", |_, (this, table): (AnyUserData, Table)| {
            let mut headers = HeaderMap::new();
            for (name, value) in sorted(&table)? {
                let value = HeaderValue::try_from(value).map_err(|_| unfit_header(&name))?;
                let name = HeaderName::try_from(name.as_str()).map_err(|_| unfit_header(&name))?;
                headers.append(name, value);
            }
            Self::change(&this, size(&headers), |builder| builder.headers(headers))
        });
        methods.add_function(
            "basic_auth",
            |_, (this, user, password): (AnyUserData, Value, Option<String>)| {
                let user = text(&user, 1, "basic_auth")?.to_owned();
                let bytes = user.len() + password.as_ref().map_or(0, String::len);
                Self::change(&this, bytes, |builder| builder.basic_auth(user, password))
            },
        );
        methods.add_function("bearer_auth", |_, (this, token): (AnyUserData, Value)| {
            let token = text(&token, 1, "bearer_auth")?.to_owned();
            Self::change(&this, token.len(), |builder| builder.bearer_auth(token))
        });
        methods.add_function("body", |_, (this, body): (AnyUserData, Value)| {
            let body = body
                .as_string()
                .ok_or_else(|| bad_argument(1, "body", "string", &body))?;
            let body = body.as_bytes();
            Self::change(&this, body.len(), |builder| builder.body(body.to_vec()))
        });
        methods.add_function(
            "form_url_encoded",
            |_, (this, form): (AnyUserData, Table)| {
                let form = sorted(&form)?;
                let bytes = form.iter().map(|(name, value)| name.len() + value.len());
                Self::change(&this, bytes.sum(), |builder| builder.form(&form))
            },
        );
        methods.add_function("timeout", |_, (this, limit): (AnyUserData, Value)| {
            let limit = duration(&limit, "timeout", "timeout")?
                .ok_or_else(|| bad_argument(1, "timeout", "time span", &Value::Nil))?;
            Self::change(&this, 0, |builder| builder.timeout(limit))
        });
        methods.add_async_function("send", async |_, this: AnyUserData| {
            // Both are held until the answer is there: the body is being sent.
            let (builder, mut held) = this.borrow_mut::<Self>()?.builder.take().ok_or_else(sent)?;
            let response = builder.send().await.map_err(|fault| failed(&fault))?;
            held.clear();
            Answer::read(response, held).await
        });
    }
}

fn add_header(headers: &mut HeaderMap, name: &str, value: &Value) -> mlua::Result<()> {
    let text = value
        .as_string()
        .ok_or_else(|| bad_argument(2, "header", "string", value))?;
    let value = HeaderValue::from_bytes(&text.as_bytes()).map_err(|_| unfit_header(name))?;
    let name = HeaderName::try_from(name).map_err(|_| unfit_header(name))?;
    headers.append(name, value);
    Ok(())
}

fn unfit_header(name: &str) -> mlua::Error {
    mlua::Error::runtime(format!(
        "the header '{}' cannot be sent",
        name.escape_debug()
    ))
}
