-- A KumoMTA behind gatepost, whole: /opt/kumomta/etc/policy/init.lua. See docs/kumomta.md.
--
-- What is about gatepost are the lines with a comment; the rest is what every policy has, and yours goes on from there.

local kumo = require 'kumo'

package.path = '/opt/kumomta/etc/policy/?.lua;' .. package.path

-- Believes gatepost, by its secret. With `upstream.identity: bearer` it is 'gatepost_signed', by a signature; with
-- `basic_user`, for a KumoMTA before 2026.03, 'gatepost_basic_user'.
require 'gatepost_basic'

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '/var/spool/kumomta/data' }
  kumo.define_spool { name = 'meta', path = '/var/spool/kumomta/meta' }

  -- Who sent a message is in every line of the log.
  kumo.configure_local_logs { log_dir = '/var/log/kumomta', meta = { 'http_auth' } }

  -- Only gatepost beside it reaches the listener, and it too has to say who it is: what stands in `trusted_hosts` needs no
  -- credentials, and without that line it is loopback.
  kumo.start_http_listener {
    listen = '127.0.0.1:8000',
    trusted_hosts = {},
  }
end)

-- The identity is a message's `http_auth`: here each has queues of its own.
kumo.on('http_message_generated', function(msg)
  msg:set_meta('tenant', msg:get_meta 'http_auth')
end)
