-- Users and their groups in a TOML file beside this one. The groups go to the route rules and, with the identity, to the MTA. A
-- change of the file counts after `gatepost` is told to reload.

local kumo = require 'kumo'
local gatepost = require 'gatepost'

local accounts = kumo.serde.toml_load 'users.toml'

kumo.on('http_server_validate_auth_basic', function(user, password)
  local account = accounts.users[user]
  if not gatepost.password.verify(account and account.hash, password) then
    return false
  end
  return {
    identities = { { identity = user, context = 'HttpBasicAuth' } },
    groups = account.groups,
  }
end)
