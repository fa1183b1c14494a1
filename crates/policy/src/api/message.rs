//! `msg` and `auth_info`, as the handler of `http_message_generated` gets them.
//!
//! A message is lent for one call. When that ends it is taken back, so that a policy which keeps `msg` in a variable of
//! its file neither gives one client's message to the next nor holds it in memory that no limit of Lua counts. For the
//! same reason an address is a place in the message, not a copy.
//!
//! What would change the message, or what only the MTA knows, raises: a policy that signs here and gets no error would
//! send unsigned.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use gatepost_message::{Address, Message};
use mlua::{Lua, LuaString, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, Value};

use super::text;
use crate::message::MessageQuestion;

/// Names and values that `set_meta` takes, in bytes, and how many: they become headers.
const LONGEST_NAME: usize = 128;
const LONGEST_VALUE: usize = 1024;
const MOST_VALUES: usize = 64;

/// What `KumoMTA` presets, and the policy does not set here.
const PRESET: [&str; 3] = ["http_auth", "received_from", "reception_protocol"];

/// The rest of `KumoMTA`'s message object.
const NOT_YET: &[&str] = &[
    "add_authentication_results",
    "append_header",
    "append_text_html",
    "append_text_plain",
    "arc_seal",
    "arc_verify",
    "check_fix_conformance",
    "dkim_sign",
    "dkim_verify",
    "get_address_header",
    "get_all_headers",
    "get_data",
    "get_due",
    "id",
    "import_headers",
    "import_scheduling_header",
    "import_x_headers",
    "increment_num_attempts",
    "num_attempts",
    "parse_mime",
    "parse_rfc3464",
    "parse_rfc5965",
    "prepend_header",
    "queue_name",
    "remove_all_named_headers",
    "remove_x_headers",
    "save",
    "set_data",
    "set_due",
    "set_force_sync",
    "set_recipient",
    "set_recipient_list",
    "set_scheduling",
    "set_sender",
    "shrink",
    "shrink_data",
    "to_header",
];

type Shared = Rc<RefCell<Option<Shown>>>;

/// A message that a call may look at, for as long as this lives.
pub(crate) struct Lent(Shared);

struct Shown {
    message: Arc<Message>,
    http_auth: String,
    received_from: IpAddr,
    meta: BTreeMap<String, Meta>,
}

/// A value as it was set, and as text.
struct Meta {
    set: Plain,
    text: String,
}

enum Plain {
    Text,
    Integer(i64),
    Number(f64),
    Boolean(bool),
}

impl Lent {
    pub(crate) fn new(asked: &MessageQuestion) -> Self {
        Self(Rc::new(RefCell::new(Some(Shown {
            message: asked.message.clone(),
            http_auth: asked.http_auth.clone(),
            received_from: asked.received_from,
            meta: BTreeMap::new(),
        }))))
    }

    /// The object for the handler.
    pub(crate) fn object(&self) -> impl UserData + use<> {
        Msg(self.0.clone())
    }

    /// What the handler set.
    pub(crate) fn meta(&self) -> Vec<(String, String)> {
        self.0.borrow().as_ref().map_or_else(Vec::new, |shown| {
            let pairs = shown.meta.iter();
            pairs
                .map(|(name, meta)| (name.clone(), meta.text.clone()))
                .collect()
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// `auth_info`: `KumoMTA`'s `AuthInfo` as a table. A trusted host and nobody have no identities.
pub(crate) fn auth_info(lua: &Lua, asked: &MessageQuestion) -> mlua::Result<Table> {
    let (identities, groups) = (lua.create_table()?, lua.create_table()?);
    if let Some(info) = &asked.auth {
        for one in info.identities() {
            let identity = lua.create_table()?;
            identity.raw_set("identity", one.identity.as_str())?;
            identity.raw_set("context", one.context.as_str())?;
            identities.raw_push(identity)?;
        }
        for group in info.groups() {
            groups.raw_push(group.as_str())?;
        }
    }
    let table = lua.create_table()?;
    table.raw_set("identities", identities)?;
    table.raw_set("groups", groups)?;
    table.raw_set("peer_address", asked.received_from.to_string())?;
    Ok(table)
}

fn look<T>(shared: &Shared, at: impl FnOnce(&Shown) -> mlua::Result<T>) -> mlua::Result<T> {
    let shown = shared.borrow();
    at(shown.as_ref().ok_or_else(over)?)
}

fn over() -> mlua::Error {
    mlua::Error::runtime("the request of this message is over; a handler must not keep it")
}

struct Msg(Shared);

impl Msg {
    fn meta(&self, lua: &Lua, name: &str) -> mlua::Result<Value> {
        let string = |text: &str| lua.create_string(text).map(Value::String);
        look(&self.0, |shown| match name {
            // Empty would be true as Lua sees it.
            "http_auth" if shown.http_auth.is_empty() => Ok(Value::Nil),
            "http_auth" => string(&shown.http_auth),
            "received_from" => string(&shown.received_from.to_string()),
            "reception_protocol" => string("HTTP"),
            _ => match shown.meta.get(name) {
                None => Ok(Value::Nil),
                Some(meta) => match meta.set {
                    Plain::Text => string(&meta.text),
                    Plain::Integer(it) => Ok(Value::Integer(it)),
                    Plain::Number(it) => Ok(Value::Number(it)),
                    Plain::Boolean(it) => Ok(Value::Boolean(it)),
                },
            },
        })
    }

    fn set_meta(&self, lua: &Lua, name: &str, value: &Value) -> mlua::Result<()> {
        let refuse = |why: &str| Err(mlua::Error::runtime(format!("msg:set_meta: {why}")));
        if PRESET.contains(&name) {
            return refuse(&format!("'{name}' is set by gatepost"));
        }
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return refuse("a name is one line of 1 to 128 bytes");
        }
        let mut shown = self.0.borrow_mut();
        let meta = &mut shown.as_mut().ok_or_else(over)?.meta;
        if value.is_nil() {
            meta.remove(name);
            return Ok(());
        }
        let Some(value) = plain(lua, value)? else {
            return refuse("a value is a string, a finite number or a boolean");
        };
        if value.text.len() > LONGEST_VALUE || value.text.chars().any(char::is_control) {
            return refuse("a value is one line of at most 1024 bytes");
        }
        if meta.len() >= MOST_VALUES && !meta.contains_key(name) {
            return refuse("a message takes at most 64 values");
        }
        meta.insert(name.to_owned(), value);
        Ok(())
    }

    fn address(&self, which: Which) -> Mailbox {
        Mailbox {
            shared: self.0.clone(),
            which,
        }
    }

    fn recipient(&self) -> mlua::Result<Mailbox> {
        match look(&self.0, |shown| Ok(shown.message.recipients.len()))? {
            1 => Ok(self.address(Which::Recipient(0))),
            many => Err(mlua::Error::runtime(format!(
                "msg:recipient: the request has {many} recipients; use msg:recipient_list()"
            ))),
        }
    }

    fn whole_from(&self) -> mlua::Result<Option<Mailbox>> {
        let there = look(&self.0, |shown| {
            Ok(!shown.message.from.is_empty() || shown.message.header("From").next().is_some())
        })?;
        Ok(there.then(|| self.address(Which::WholeFrom)))
    }
}

/// The value with its text as Lua writes it; `None` where it is nothing that has one.
fn plain(lua: &Lua, value: &Value) -> mlua::Result<Option<Meta>> {
    let set = if value.is_string() {
        Plain::Text
    } else if let Some(whole) = value.as_integer() {
        Plain::Integer(whole)
    } else if let Some(number) = value.as_number().filter(|it| it.is_finite()) {
        Plain::Number(number)
    } else if let Some(it) = value.as_boolean() {
        let text = it.to_string();
        return Ok(Some(Meta {
            set: Plain::Boolean(it),
            text,
        }));
    } else {
        return Ok(None);
    };
    let Some(written) = lua.coerce_string(value.clone())? else {
        return Ok(None);
    };
    let text = text(&Value::String(written), 2, "msg:set_meta")?.to_owned();
    Ok(Some(Meta { set, text }))
}

impl UserData for Msg {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get_meta", |lua, this, name: Value| {
            this.meta(lua, &text(&name, 1, "msg:get_meta")?)
        });
        methods.add_method("set_meta", |lua, this, (name, value): (Value, Value)| {
            this.set_meta(lua, &text(&name, 1, "msg:set_meta")?, &value)
        });
        methods.add_method("sender", |_, this, ()| {
            look(&this.0, |_| Ok(this.address(Which::Sender)))
        });
        methods.add_method("recipient", |_, this, ()| this.recipient());
        methods.add_method("num_recipients", |_, this, ()| {
            look(&this.0, |shown| Ok(shown.message.recipients.len()))
        });
        methods.add_method("recipient_list", |lua, this, ()| {
            let count = look(&this.0, |shown| Ok(shown.message.recipients.len()))?;
            let each = (0..count).map(|index| this.address(Which::Recipient(index)));
            lua.create_sequence_from(each)
        });
        methods.add_method("from_header", |_, this, ()| this.whole_from());
        methods.add_method("get_first_named_header_value", |lua, this, name: Value| {
            let name = text(&name, 1, "msg:get_first_named_header_value")?;
            look(&this.0, |shown| {
                let first = shown.message.header(&name).next();
                let value = first.map(|value| settled(&shown.message, value));
                value.map(|value| lua.create_string(value?)).transpose()
            })
        });
        methods.add_method("get_all_named_header_values", |lua, this, name: Value| {
            let name = text(&name, 1, "msg:get_all_named_header_values")?;
            look(&this.0, |shown| {
                let values = shown.message.header(&name);
                let values = values.map(|value| settled(&shown.message, value));
                lua.create_sequence_from(values.collect::<mlua::Result<Vec<_>>>()?)
            })
        });
        for name in NOT_YET {
            methods.add_method(*name, move |_, _, _: mlua::Variadic<Value>| {
                Err::<(), _>(mlua::Error::runtime(format!(
                    "msg:{name} is not available before the MTA"
                )))
            });
        }
        // Nil for what does not exist would turn a slip of the pen into a rule that never holds.
        methods.add_meta_method(MetaMethod::Index, |_, _, name: Value| {
            Err::<(), _>(unknown("msg", &name))
        });
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| Ok("message"));
    }
}

/// The value, if it is the one that is sent. What a rule was shown before the MTA fills it in would bind nobody.
fn settled<'a>(message: &Message, value: &'a str) -> mlua::Result<&'a str> {
    if message.fills_in(value) {
        return Err(mlua::Error::runtime(
            "the header holds a template, which the MTA fills in later",
        ));
    }
    Ok(value)
}

fn unknown(of: &str, name: &Value) -> mlua::Error {
    let name = name.as_string().map(LuaString::to_string_lossy);
    let name = name.map_or_else(|| "?".to_owned(), |name| super::kumo::printable(&name));
    mlua::Error::runtime(format!("{of} has no '{name}' in gatepost"))
}

/// An address of the message.
struct Mailbox {
    shared: Shared,
    which: Which,
}

#[derive(Clone, Copy)]
enum Which {
    Sender,
    Recipient(usize),
    From(usize),
    /// `From` with all that is in it.
    WholeFrom,
}

impl Mailbox {
    fn part(&self, lua: &Lua, part: fn(&Address) -> &str) -> mlua::Result<LuaString> {
        look(&self.shared, |shown| {
            let message = &shown.message;
            let address = match self.which {
                // The null sender has empty parts, as in KumoMTA.
                Which::Sender => message.sender.as_ref(),
                Which::Recipient(index) => message.recipients.get(index),
                Which::From(index) => message.from.get(index),
                Which::WholeFrom => match message.from.as_slice() {
                    [one] => Some(one),
                    // A rule about the first of several would let the others through.
                    many => {
                        return Err(mlua::Error::runtime(format!(
                            "msg:from_header: From has {} addresses; use msg:from_header().list",
                            many.len()
                        )));
                    }
                },
            };
            lua.create_string(address.map_or("", part))
        })
    }
}

impl UserData for Mailbox {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("email", |lua, this| this.part(lua, Address::email));
        fields.add_field_method_get("user", |lua, this| this.part(lua, Address::user));
        fields.add_field_method_get("domain", |lua, this| this.part(lua, Address::domain));
        fields.add_field_method_get("list", |lua, this| {
            if !matches!(this.which, Which::WholeFrom) {
                return Err(mlua::Error::runtime("an address has no 'list' in gatepost"));
            }
            let count = look(&this.shared, |shown| Ok(shown.message.from.len()))?;
            let shared = || this.shared.clone();
            lua.create_sequence_from((0..count).map(|index| Mailbox {
                shared: shared(),
                which: Which::From(index),
            }))
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |lua, this, ()| {
            this.part(lua, Address::email)
        });
        methods.add_meta_method(MetaMethod::Index, |_, _, name: Value| {
            Err::<(), _>(unknown("an address", &name))
        });
    }
}
