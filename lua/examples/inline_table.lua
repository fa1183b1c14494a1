-- A few users, written into the policy. The simplest thing that is safe: passwords are hashed, and an unknown user takes
-- as long as a wrong password. Make a hash with `gatepost hash`.

local kumo = require 'kumo'
local gatepost = require 'gatepost'

local users = {
  -- newsletter-2026
  newsletter = '$argon2id$v=19$m=7168,t=5,p=1$0goReUO/3kl/5SocemJI/Q$fa7up5zNR8wuFJqagFcj+pA+QcaZw5oof19TizH0K0o',
  -- shop-2026
  shop = '$argon2id$v=19$m=7168,t=5,p=1$qj1rYzacXHmpphr9qRawBQ$3Pbux1x0tixYnIcnKfFtKstboW7qTlavmhGiKo88+ZM',
}

kumo.on('http_server_validate_auth_basic', function(user, password)
  return gatepost.password.verify(users[user], password)
end)
