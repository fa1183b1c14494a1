-- Who may inject mail. So far nobody: put users in, or another handler in the place of this one.
--
-- gatepost calls a handler for every request that brings credentials. The handler may
--
--   return true    the request passes, as `user`
--   return false   the client gets 401 and may try again
--   return { identities = { { identity = 'tenant-7', context = 'HttpBasicAuth' } }, groups = { 'bulk' } }
--                  the request passes, as `tenant-7`
--
-- Whatever else it does (returns nil, raises an error, takes too long), the request does not pass, and the log says why.

local kumo = require 'kumo'
local gatepost = require 'gatepost'

-- Passwords are kept as hashes; `gatepost hash` makes one. A change counts within two seconds, without a restart.
local users = {
  -- scott = '$argon2id$v=19$m=7168,t=5,p=1$...',
}

kumo.on('http_server_validate_auth_basic', function(user, password)
  -- For a user who does not exist this compares with nothing: false, after as much work as for a wrong password.
  return gatepost.password.verify(users[user], password)
end)
