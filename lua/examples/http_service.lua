-- An account service decides: it is asked with the user's own credentials and answers 200 with a JSON body that names the
-- tenant, or 401 or 403.

local kumo = require 'kumo'

local service = os.getenv 'ACCOUNT_SERVICE' or 'http://127.0.0.1:8500/v1/check'

local client = kumo.http.build_client { user_agent = 'gatepost', timeout = '2 seconds' }

kumo.on('http_server_validate_auth_basic', function(user, password)
  local response = client:get(service):basic_auth(user, password):send()
  local status = response:status_code()
  if status == 401 or status == 403 then
    return false
  end
  if status ~= 200 then
    -- Neither yes nor no. An error here is a 500 for the client, which tries again later.
    error('the account service answered ' .. status)
  end
  local account = kumo.serde.json_parse(response:text())
  return {
    identities = { { identity = account.tenant, context = 'HttpBasicAuth' } },
    groups = account.groups,
  }
end)
