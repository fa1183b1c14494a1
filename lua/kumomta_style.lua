-- A handler as KumoMTA operators write it: it runs here unchanged.
--
-- Passwords stand here as they are, so everybody who can read this file knows them; policy.lua shows hashes instead.

local kumo = require 'kumo'

kumo.on('http_server_validate_auth_basic', function(user, password)
  local password_database = {
    ['scott'] = 'tiger',
    ['carol'] = 'a:b:c',
    ['jürgen'] = 'grüße',
  }
  if password == '' then
    return false
  end
  -- An unknown user has no password in the table: nil. A client that sends no password at all would have nil too, and nil
  -- equals nil. gatepost refuses such credentials before they get here, unless `basic.missing_password: nil` is set.
  return password ~= nil and password_database[user] == password
end)
