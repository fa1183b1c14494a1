-- MAIL_USERS_DB=/tmp/users.db gatepost test lua/examples/sqlite_memoize_test.lua

local test = require 'gatepost.test'
local gatepost = require 'gatepost'
local sqlite = require 'sqlite'

local db = sqlite.open(os.getenv 'MAIL_USERS_DB')
db:execute 'CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, hash TEXT NOT NULL)'
db:execute('INSERT OR REPLACE INTO users VALUES (?, ?)', 'scott', gatepost.password.hash 'tiger')

local policy = test.policy 'sqlite_memoize.lua'

test.case('a user of the database gets in', function()
  test.allows(policy:request { user = 'scott', password = 'tiger' }, 'scott')
  test.denies(policy:request { user = 'scott', password = 'lion' })
end)

test.case('an unknown user does not', function()
  test.denies(policy:request { user = 'nobody', password = 'tiger' })
  test.denies(policy:request { user = "' OR 1=1 --", password = 'tiger' })
end)
