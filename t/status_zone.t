# status_zone: what is counted equals what was sent.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

# Nothing breaks where it counts: errors before the server is known, refusals without an answer, reloads.
{
    my $port    = free_port();
    my $gateway = gateway(
        workers => 2,
        http    => "server { listen 127.0.0.1:$port; status_zone one;\n"
            . "location / { status_zone all; return 200 ok; location /all/off { status_zone off; return 200 off; } }\n"
            . "location /closed { return 444; } location /if { if (\$arg_a) { status_zone asked; return 200 if; } } }\n"
    );
    is status_of(get($port, $_)), 200, $_ for '/', '/all/off', '/if?a=1';
    is get($port, '/closed'), '', 'closed without an answer';
    is status_of(get($port, '/%')), 400, 'not a request';
    ok $gateway->reload, 'reload';
    is status_of(get($port, '/')), 200, 'still answers';
    ok $gateway->quit, 'quit';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';
}

# Mistakes: nginx -t names what is wrong, and where.
for my $row (
    [ 'status_zone;',                 'invalid number of arguments in "status_zone" directive' ],
    [ 'status_zone a b;',             'invalid number of arguments in "status_zone" directive' ],
    [ 'status_zone "";',              '"status_zone" directive has invalid value "" of "status_zone", a name or "off" expected' ],
    [ 'status_zone a; status_zone b;', '"status_zone" directive is duplicate' ],
    [ 'status_zone a; status_zone off;', '"status_zone" directive is duplicate' ],
) {
    my ($text, $message) = @$row;
    for my $at ("server {", "server { location / {") {
        my $end = $at =~ /location/ ? '}}' : '}';
        my ($status, $said) = nginx_t(http => "\n$at\n\n$text\n$end");
        ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/m, "$at $text" or diag "$status: $said";
    }
}
my ($status, $said) = nginx_t(http => "\nstatus_zone a;\n");
ok $status != 0 && $said =~ /"status_zone" directive is not allowed here/, 'not in http' or diag $said;

done_testing;
