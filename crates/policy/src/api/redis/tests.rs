//! What is refused before Redis is asked, and what comes of a server that is not there, silent, slow or too talkative.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use crate::tests::check_body;

/// A server that gives each question the same answer, after a while.
fn answering(answer: &'static str, after: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut question = [0; 1000];
                while stream.read(&mut question).is_ok_and(|read| read > 0) {
                    std::thread::sleep(after);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    address.to_string()
}

#[test]
fn options_and_arguments_are_checked() {
    for (call, words) in [
        (
            "redis.open()",
            "bad argument #1 to 'redis.open' (table expected, got no value)",
        ),
        ("redis.open {}", "needs the option 'node'"),
        (
            "redis.open { node = 'redis://127.0.0.1:1/', surprise = 1 }",
            "has no option 'surprise'",
        ),
        (
            "redis.open { node = 'nonsense://hidden@x' }",
            "'node' is not an address",
        ),
        (
            "redis.open { node = 'redis://127.0.0.1:1/', connect_timeout = 'soon' }",
            "'connect_timeout' is a time span",
        ),
        (
            "redis.open { node = 'redis://127.0.0.1:1/' }:query()",
            "bad argument #1 to 'query'",
        ),
        (
            "redis.open { node = 'redis://127.0.0.1:1/' }:query('GET', {})",
            "bad argument #2 to 'query'",
        ),
        (
            "redis.open { node = 'redis://127.0.0.1:1/' }:query('select', 1)",
            "SELECT changes the connection",
        ),
        (
            "redis.open { node = 'redis://127.0.0.1:1/' }:query 'MULTI'",
            "MULTI changes the connection",
        ),
    ] {
        check_body(&format!(
            "local redis = require 'redis'
             local ok, fault = pcall(function() {call} end) fault = tostring(fault)
             return not ok and fault:find([[{words}]], 1, true) ~= nil and not fault:find 'hidden' or error(fault)"
        ));
    }
}

/// A policy loads while Redis is down; the calls that need it fail, and soon.
#[test]
fn a_server_that_is_not_there_is_an_error_in_time() {
    check_body(
        "local redis = require 'redis'
         local connection = redis.open { node = 'redis://127.0.0.1:1/', connect_timeout = '1 second' }
         local ok, fault = pcall(connection.query, connection, 'PING')
         return not ok and tostring(fault):find 'redis: cannot connect' ~= nil or error(fault)",
    );
}

/// The attack: a server that takes the question and says nothing.
#[test]
fn a_server_that_is_silent_is_an_error_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    check_body(&format!(
        "local redis = require 'redis'
         local connection = redis.open {{ node = 'redis://{address}/', connect_timeout = 0.2, response_timeout = 0.2 }}
         local ok, fault = pcall(connection.query, connection, 'PING')
         return not ok and tostring(fault):find 'within' ~= nil or error(fault)"
    ));
}

/// The attack: a server, or one that took its place, whose answer fills the memory. The next query has a new connection.
#[test]
fn an_answer_is_bounded() {
    for answer in ["$99999999\r\n", "*99999999\r\n"] {
        let address = answering(answer, Duration::ZERO);
        check_body(&format!(
            "local connection = require 'redis'.open {{ node = 'redis://{address}/', pool_size = 1 }}
             for i = 1, 2 do
               local ok, fault = pcall(connection.query, connection, 'GET', 'hidden') fault = tostring(fault)
               assert(not ok and fault:find('more than 16 MiB or 100000 items', 1, true) and not fault:find 'hidden', fault)
             end
             return true"
        ));
    }
}

#[test]
fn nil_keeps_its_place_and_the_list_its_length() {
    let address = answering(
        "*4\r\n$-1\r\n$1\r\nb\r\n$-1\r\n*1\r\n$-1\r\n",
        Duration::ZERO,
    );
    check_body(&format!(
        "local connection = require 'redis'.open {{ node = 'redis://{address}/' }}
         local list = connection:query('MGET', 'a', 'b', 'c', 'd')
         assert(#list == 4 and list[1] == nil and list[2] == 'b' and list[3] == nil and #list[4] == 1)
         return select('#', table.unpack(list)) == 4"
    ));
}

/// The limits are those of the options, and by default a handler sees the error before its own time is over.
#[test]
fn the_limits_are_the_ones_that_are_set() {
    let slow = answering(":1\r\n", Duration::from_millis(800));
    check_body(&format!(
        "return require 'redis'.open {{ node = 'redis://{slow}/' }}:query 'PING' == 1"
    ));
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listening.local_addr().unwrap();
    check_body(&format!(
        "local connection = require 'redis'.open {{ node = 'redis://{silent}/' }}
         local ok, fault = pcall(connection.query, connection, 'PING')
         return not ok and tostring(fault):find('no answer within 2s', 1, true) ~= nil or error(fault)"
    ));
}

#[test]
fn a_status_is_true_for_ok_and_a_string_otherwise() {
    for (answer, value) in [("+OK\r\n", "true"), ("+QUEUED\r\n", "'QUEUED'")] {
        let address = answering(answer, Duration::ZERO);
        check_body(&format!(
            "return require 'redis'.open {{ node = 'redis://{address}/' }}:query 'PING' == {value}"
        ));
    }
}
