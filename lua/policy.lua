-- Who may inject mail: a policy to start from.
--
-- gatepost calls a handler for every request that brings credentials. The handler may
--
--   return true    the request passes, as `user`
--   return false   the client gets 401 and may try again
--   return { identities = { { identity = 'tenant-7', context = 'HttpBasicAuth' } }, groups = { 'bulk' } }
--                  the request passes, as `tenant-7`
--
-- Whatever else it does (returns nil, raises an error, takes too long), the request does not pass, and the log says why.
-- `gatepost check --config FILE` tells whether this file loads.

local kumo = require 'kumo'
local gatepost = require 'gatepost'

-- Passwords are kept as hashes. These are for `tiger`, `a:b:c` and `grüße`, and for trying things out only.
local users = {
  scott = '$argon2id$v=19$m=7168,t=5,p=1$Vs2Wi6utiIc7nNPrqgRImw$yq/GdZbdDmmfz4KKJny6ETmERU3m/Lo+12s2jSpgrFE',
  carol = '$argon2id$v=19$m=7168,t=5,p=1$0qE4QX5VKxbaHPpzq1Mscg$knwUwxOP4kJ8MVt5ojjzI8Lz5q76/dwoFV2V99qjQqA',
  ['jürgen'] = '$argon2id$v=19$m=7168,t=5,p=1$OxjrfasZ5jRx7IQ0tQHQ3A$GunFQaOQu+/FiFidahPxO582OJVppVVsvYVfHavg4NQ',
}

kumo.on('http_server_validate_auth_basic', function(user, password)
  -- For a user who does not exist this compares with nothing: false, after as much work as for a wrong password, so
  -- that nobody can find out by the time it takes who exists.
  return gatepost.password.verify(users[user], password)
end)
