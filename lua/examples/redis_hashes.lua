-- Users in Redis: a hash `mail:user:NAME` with the field `password`, which is itself hashed. While Redis is down, requests get
-- 500 and may try again; they are not let in, and nobody else is disturbed.

local gatepost = require 'gatepost'
local kumo = require 'kumo'
local redis = require 'redis'

local connection = redis.open {
  node = os.getenv 'MAIL_REDIS' or 'redis://127.0.0.1:6379/',
  pool_size = 4,
  response_timeout = '1 second',
}

kumo.on('http_server_validate_auth_basic', function(user, password)
  local stored = connection:query('HGET', 'mail:user:' .. user, 'password')
  return gatepost.password.verify(stored, password)
end)
