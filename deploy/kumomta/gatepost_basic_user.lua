-- For a KumoMTA behind gatepost with `upstream.identity: basic_user`: KumoMTA before 2026.03, whose handlers answer with true
-- or false alone.
--
-- gatepost authenticates with the identity as the user and the secret as the password; the user becomes the `http_auth` meta
-- of each message. gatepost refuses identities with a colon, since a user name of Basic credentials holds none. Its own address
-- must not be in the listener's `trusted_hosts`.

local kumo = require 'kumo'

local SECRET_FILE = os.getenv 'GATEPOST_SECRET_FILE'
  or '/opt/kumomta/etc/gatepost.secret'

local function secret()
  return (kumo.secrets.load(SECRET_FILE):gsub('[\r\n]+$', ''))
end

-- Equal in a time that does not tell how much was right: what is compared are MACs of both.
local function same(key, a, b)
  local function mac(text)
    return kumo.digest.hmac_sha256({ key_data = key }, text).hex
  end
  return mac(a) == mac(b)
end

kumo.on('http_server_validate_auth_basic', function(user, password)
  local known = secret()
  return user ~= '' and password ~= nil and #known >= 16 and same(known, password, known)
end)
