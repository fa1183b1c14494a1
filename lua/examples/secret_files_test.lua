-- MAIL_SECRETS=FOLDER gatepost test lua/examples/secret_files_test.lua, where FOLDER/scott holds `tiger`.

local test = require 'gatepost.test'
local policy = test.policy 'secret_files.lua'

test.case('a user with a file gets in', function()
  test.allows(policy:request { user = 'scott', password = 'tiger' }, 'scott')
  test.denies(policy:request { user = 'scott', password = 'lion' })
  test.denies(policy:request { user = 'scott', password = '' })
end)

test.case('a user without a file does not', function()
  test.denies(policy:request { user = 'nobody', password = 'tiger' })
  test.denies(policy:request { user = '..data', password = 'tiger' })
end)
