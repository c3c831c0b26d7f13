# A few backends in one stock nginx: each says its number, and has a health document that a test can change.
package Sluice::Backends;

use strict;
use warnings;

use Exporter 'import';
use Sluice::Run;

our @EXPORT = qw(backends well);

# The health document of a server that is well.
sub well { return '{"status":"healthy","checks":{"database":{"status":"ok","latency":12}}}' }

# backends($count): an object with ->port(N), N from 1, and the methods below. All are well.
sub backends {
    my $count = shift;
    my @ports = map { free_port() } 1 .. $count;
    my $health = 'location = /health { default_type application/json; access_log logs/probes probe; try_files /health-$server_port.json =503; }';
    my $http = "log_format probe '\$msec \$server_port \$request_method \$request_uri \$http_host \$http_x_probe';\nlog_format traffic '\$msec \$server_port';\nroot html;\n"
        . join '', map {"server { listen 127.0.0.1:$ports[$_]; $health location / { access_log logs/traffic traffic; return 200 " . ($_ + 1) . "; } }\n"} 0 .. $#ports;
    my $self = gateway(load => '', http => $http);
    $self->{ports} = \@ports;
    bless $self, __PACKAGE__;
    $self->say($_ => well()) for 1 .. $count;
    return $self;
}

our @ISA = 'Sluice::Run::Nginx';

sub port { $_[0]{ports}[ $_[1] - 1 ] }

# say($n, $text): the health document of backend $n from now on.
sub say {
    my ($self, $n, $text) = @_;
    Sluice::Run::spew("$self->{dir}/html/health-" . $self->port($n) . '.json', $text);
}

sub sick { $_[0]->say($_[1], '{"status":"unhealthy","checks":{"database":{"status":"fail"}}}') }
sub well_again { $_[0]->say($_[1], well()) }

# probes($n), traffic($n): what came so far, one line each, oldest first; without $n of all.
sub probes  { shift->lines('probes',  @_) }
sub traffic { shift->lines('traffic', @_) }

sub lines {
    my ($self, $name, $n) = @_;
    open my $file, '<', "$self->{dir}/logs/$name" or return;
    my $port = defined $n ? $self->port($n) : '\d+';
    return grep {/^\S+ $port\b/} <$file>;
}

1;
