# What every data-driven test here starts with: Test::Nginx::Socket, and the environment that scripts/test gives.
#
#     use lib 't/lib';
#     use Sluice;
#     plan tests => repeat_each() * blocks() * 2;
#     run_tests();
#     __DATA__
#
# In a block's configuration stand $TEST_NGINX_REDIS_PORT (a real Redis), $TEST_NGINX_KEY_PREFIX (no other run uses its keys)
# and $TEST_NGINX_RAND_PORT_1 and on (free ports). Several gateways, reloads, crashes: Sluice::Run.
package Sluice;

use strict;
use warnings;
use Time::HiRes ();

BEGIN {
    # Ports and keys of this run only; Test::Nginx reads its environment when it is loaded.
    $ENV{TEST_NGINX_REDIS_PORT} = $ENV{TEST_SLUICE_REDIS_PORT} || 6379;
    $ENV{TEST_NGINX_KEY_PREFIX} = sprintf 't%d-%d', $$, 1000 * Time::HiRes::time();
}

use Test::Nginx::Socket -Base;

# Blocks run in the order they are written in, each on a new nginx.
no_shuffle();
no_long_string();
log_level('info');

1;
