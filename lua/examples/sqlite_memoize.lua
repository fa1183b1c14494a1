-- Users in an SQLite database that another program keeps: a table `users` with `name` and `hash`. What the database said
-- about a user is remembered for a minute, for all workers together.

local kumo = require 'kumo'
local gatepost = require 'gatepost'
local sqlite = require 'sqlite'

local database = os.getenv 'MAIL_USERS_DB' or '/var/lib/mail/users.db'

local hash_of = kumo.memoize(function(user)
  local db = sqlite.open(database, 500)
  -- One column, so this is a list of values: empty where there is no such user.
  local hashes = db:execute('SELECT hash FROM users WHERE name = ?', user)
  db:close()
  return hashes[1]
end, { name = 'hash_of', ttl = '1 minute', capacity = 1000 })

kumo.on('http_server_validate_auth_basic', function(user, password)
  return gatepost.password.verify(hash_of(user), password)
end)
