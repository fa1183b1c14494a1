-- A folder with one file for each user, named like the user and holding the password: how Kubernetes mounts a Secret.
--
-- The folder is listed when the policy loads, and a user is looked up in that list. The name never becomes part of a path, so
-- no name can lead out of the folder. The files themselves are read at each call, so a rotated password counts at once; a new
-- user needs a reload.

local kumo = require 'kumo'
local gatepost = require 'gatepost'

local folder = os.getenv 'MAIL_SECRETS' or '/run/secrets/mail'

local files = {}
for _, path in ipairs(kumo.fs.read_dir(folder)) do
  local name = path:match '([^/]+)$'
  -- `..data` and its like are Kubernetes' own.
  if not name:find '^%.' then
    files[name] = path
  end
end

kumo.on('http_server_validate_auth_basic', function(user, password)
  local path = files[user]
  if not path then
    return false
  end
  local secret = kumo.string.trim_end(kumo.secrets.load(path))
  return gatepost.equal(secret, password)
end)
