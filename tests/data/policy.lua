-- The policy of the end-to-end tests: three users, and one for every way in which a handler can end.
local kumo = require 'kumo'

local users = {
  scott = 'tiger',
  carol = 'a:b:c',
  ['jürgen'] = 'grüße',
}

local endings = {
  ['r-true'] = function() return true end,
  ['r-false'] = function() return false end,
  ['r-nil'] = function() return nil end,
  ['r-string'] = function() return 'yes' end,
  ['r-number'] = function() return 1 end,
  ['r-empty-table'] = function() return {} end,
  ['r-authinfo'] = function()
    return { identities = { { identity = 'r-authinfo', context = 'HttpBasicAuth' } } }
  end,
  ['r-authinfo-none'] = function() return { identities = {}, groups = { 'staff' } } end,
  ['r-error'] = function() error 'the handler raised this' end,
  ['r-loop'] = function() while true do end end,
  ['r-memory'] = function()
    local hoard = {}
    while true do hoard[#hoard + 1] = ('x'):rep(1024 * 1024) .. #hoard end
  end,
}

kumo.on('http_server_validate_auth_basic', function(user, password)
  local ending = endings[user]
  if ending then return ending() end
  return password ~= nil and users[user] == password
end)
