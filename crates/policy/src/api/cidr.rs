//! `kumo.cidr.make_map`: a table whose keys are networks; an address finds the longest that holds it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gatepost_auth::address::parse_network;
use ipnet::IpNet;
use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, Value};

use super::{Host, bad_argument, submodule, text};

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.cidr")?;
    module.set(
        "make_map",
        lua.create_function(|_, table: Value| {
            let mut map = Map::default();
            if table.is_nil() {
                return Ok(map);
            }
            let Value::Table(table) = table else {
                return Err(bad_argument(1, "kumo.cidr.make_map", "table", &table));
            };
            for pair in table.pairs::<Value, Value>() {
                let (key, value) = pair?;
                map.insert(&key, value)?;
            }
            Ok(map)
        })?,
    )
}

/// For each family and prefix length, the networks of that length. At most 33 and 129 look-ups.
#[derive(Default)]
struct Map(BTreeMap<(Family, u8), BTreeMap<IpNet, Value>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Map {
    fn insert(&mut self, key: &Value, value: Value) -> mlua::Result<()> {
        let key = text(key, 1, "kumo.cidr.make_map")?;
        let network = parse_network(&key)
            .map_err(|fault| mlua::Error::runtime(format!("kumo.cidr.make_map: {fault}")))?;
        let place = self
            .0
            .entry((family(network.addr()), network.prefix_len()))
            .or_default();
        place.insert(network, value);
        Ok(())
    }

    fn find(&self, address: IpAddr) -> Option<&Value> {
        let family = family(address);
        self.0
            .range((family, 0)..=(family, u8::MAX))
            .rev()
            .find_map(|((_, length), networks)| {
                networks.get(&IpNet::new(address, *length).ok()?.trunc())
            })
    }
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

impl UserData for Map {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::Index, |_, this, key: Value| {
            // What is no address is in no network.
            let address = key
                .as_string()
                .and_then(|key| key.to_str().ok()?.parse::<IpAddr>().ok());
            let found = address.and_then(|address| this.find(address.to_canonical()));
            Ok(found.cloned().unwrap_or(Value::Nil))
        });
        methods.add_meta_method_mut(
            MetaMethod::NewIndex,
            |_, this, (key, value): (Value, Value)| this.insert(&key, value),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn the_longest_network_wins() {
        check_body(
            "local map = kumo.cidr.make_map { ['10.0.0.0/8'] = 'wide', ['10.1.0.0/16'] = 'narrow', ['10.1.1.1'] = 'host', ['2001:db8::/32'] = 'six', ['0.0.0.0/0'] = 'any' }
             assert(map['10.2.3.4'] == 'wide' and map['10.1.2.3'] == 'narrow' and map['10.1.1.1'] == 'host')
             assert(map['2001:db8::1'] == 'six' and map['2001:db9::1'] == nil and map['192.0.2.1'] == 'any')
             assert(map['::ffff:10.1.1.1'] == 'host' and map.nonsense == nil and map[1] == nil)
             map['192.0.2.0/24'] = 'later'
             return map['192.0.2.1'] == 'later'",
        );
        check_body("local map = kumo.cidr.make_map() return map['10.0.0.1'] == nil");
    }

    #[test]
    fn keys_must_be_networks() {
        for table in ["{ nonsense = 1 }", "{ ['10.0.0.1/8'] = 1 }", "{ 1 }", "1"] {
            check_body(&format!(
                "local ok, fault = pcall(kumo.cidr.make_map, {table}) return not ok and tostring(fault):find 'kumo.cidr.make_map' ~= nil"
            ));
        }
    }
}
