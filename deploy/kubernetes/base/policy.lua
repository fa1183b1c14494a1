-- Who may inject mail: the users of the Secret gatepost-users, as `htpasswd -B` writes them.
--
-- The file is looked at once a second, so a changed Secret counts as soon as the kubelet has brought it (within about a minute), without
-- a restart or a reload. A file that is broken or gone leaves the users that were read before.

local kumo = require 'kumo'
local gatepost = require 'gatepost'

-- Read at the start: where it is missing or broken, gatepost does not start.
local users = gatepost.htpasswd 'users/htpasswd'

kumo.on('http_server_validate_auth_basic', function(user, password)
  return users:verify(user, password)
end)
