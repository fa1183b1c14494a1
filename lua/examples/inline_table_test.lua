-- gatepost test lua/examples/inline_table_test.lua

local test = require 'gatepost.test'
local policy = test.policy 'inline_table.lua'

test.case('users get in with their own password', function()
  test.allows(policy:request { user = 'newsletter', password = 'newsletter-2026' }, 'newsletter')
  test.allows(policy:request { user = 'shop', password = 'shop-2026' }, 'shop')
end)

test.case('nobody else does', function()
  test.denies(policy:request { user = 'shop', password = 'newsletter-2026' })
  test.denies(policy:request { user = 'shop', password = '' })
  test.denies(policy:request { user = 'nobody', password = 'shop-2026' })
end)
