-- A flow need not be about money. Its sagas have the amount 0 and the currency XXX, which is ISO 4217's word for none: the
-- columns stay filled, so an earlier release lists such a saga like any other, and leaves it alone.
ALTER DOMAIN saga_amount DROP CONSTRAINT above_zero;
-- Not validated: no row breaks it that kept the rule before.
ALTER DOMAIN saga_amount ADD CONSTRAINT not_below_zero CHECK (VALUE >= 0) NOT VALID;
