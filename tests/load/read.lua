-- GET products by random ids, up to this script's argument.
local most

function init(args)
  most = tonumber(args[1])
end

function request()
  return wrk.format("GET", "/products/" .. math.random(most))
end
