-- MAIL_REDIS=redis://HOST/ gatepost test lua/examples/redis_hashes_test.lua. Writes the user scott.

local test = require 'gatepost.test'
local gatepost = require 'gatepost'
local redis = require 'redis'

local connection = redis.open { node = os.getenv 'MAIL_REDIS' }
connection:query('HSET', 'mail:user:scott', 'password', gatepost.password.hash 'tiger')

local policy = test.policy 'redis_hashes.lua'

test.case('a user of the database gets in', function()
  test.allows(policy:request { user = 'scott', password = 'tiger' }, 'scott')
  test.denies(policy:request { user = 'scott', password = 'lion' })
end)

test.case('an unknown user does not', function()
  test.denies(policy:request { user = 'nobody', password = 'tiger' })
end)
